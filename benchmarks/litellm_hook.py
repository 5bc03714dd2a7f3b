"""LiteLLM's real proxy with our callback, before a model of ours: what reaches the model.

python benchmarks/litellm_hook.py PATH_TO_litellm

`litellm` is that of an environment with `litellm[proxy]` and this package. A user whose history is
known, nobody, and a stream: prints how many tokens the model was sent, and ends with 1 where the
user's were no more than nobody's.
"""

import json
import sys
import tempfile
from pathlib import Path

import httpx2
from gateway import HERE, THEIR_KEY, started, stocked

MODEL, SERVICE, PROXY = 8631, 8632, 8633
CALLBACK = """
import os

from copersona.integrations.contexts import Remote
from copersona.integrations.litellm import PersonalisedCalls

personalise = PersonalisedCalls(Remote("http://127.0.0.1:{}", os.environ["COPERSONA_KEY"]))
"""


def asked(user, **more):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Bread?"}]
    body = {"model": "fake", "messages": messages, **({"user": user} if user else {}), **more}
    answer = httpx2.post(
        f"http://127.0.0.1:{PROXY}/v1/chat/completions", json=body, timeout=60,
        headers={"authorization": f"Bearer {THEIR_KEY}"},
    )  # fmt: skip
    answer.raise_for_status()
    return answer


def main():
    folder = Path(tempfile.mkdtemp())
    key, log = stocked(folder, 50), (folder / "log").open("w")
    model, service, proxy = (f"http://127.0.0.1:{port}" for port in (MODEL, SERVICE, PROXY))
    (folder / "personalising.py").write_text(CALLBACK.format(SERVICE))
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({
        "model_list": [{"model_name": "fake", "litellm_params": {
            "model": "openai/fake", "api_base": f"{model}/v1", "api_key": "none"}}],
        "general_settings": {"master_key": THEIR_KEY},
        "litellm_settings": {"callbacks": "personalising.personalise"},
    }))  # fmt: skip
    running = [started([sys.executable, HERE / "fake_model.py", str(MODEL)], f"{model}/leaks", log)]
    try:
        running.append(started(
            [sys.executable, "-m", "copersona", "--store", folder / "people.db",
             "--encoder", "static", "--llm", "echo", "serve", "--port", str(SERVICE)],
            f"{service}/healthz", log,
        ))  # fmt: skip
        running.append(started(
            [sys.argv[1], "--config", config, "--port", str(PROXY), "--host", "127.0.0.1"],
            f"{proxy}/health/liveliness", log, LITELLM_LOCAL_MODEL_COST_MAP="True",
            COPERSONA_KEY=key, PYTHONPATH=str(folder),
        ))  # fmt: skip
        known, nobody = (asked(user).json()["usage"]["prompt_tokens"] for user in ("user1", None))
        pieces = asked("user1", stream=True).text.count("data: {")
    finally:
        for process in running:
            process.terminate()
            process.wait()
    print(f"a known user: {known} tokens; nobody: {nobody}; a stream: {pieces} pieces")
    sys.exit(known <= nobody)


if __name__ == "__main__":
    main()
