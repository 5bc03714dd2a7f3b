"""An OpenAI-compatible model for load tests: answers at once, and looks for what it must not see.

python benchmarks/fake_model.py PORT

Every planted text holds the word `zq<owner>zq`, where owners are called as `c1u2` is, and every
request says whose it is (`I am <owner>.`). Whoever else's word is among the messages is a leak;
`GET /leaks` counts them. Streams where asked, and takes everything for a chat.
"""

import asyncio
import json
import re
import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

PLANTED = re.compile(r"zq(c\d+u\d+)zq")
ASKER = re.compile(r"I am (\w+)\.")
ANSWER = "Certainly. Here is what I would do, in three short steps."

app = FastAPI()
seen = {"requests": 0, "personalised": 0, "leaks": 0}


@app.post("/v1/chat/completions")
async def complete(request: Request):
    asked = await request.json()
    text = json.dumps(asked.get("messages"))
    owners = set(PLANTED.findall(text))
    asker = ASKER.findall(text)
    seen["requests"] += 1
    seen["personalised"] += bool(owners)
    seen["leaks"] += bool(owners - set(asker[-1:]))
    usage = {
        "prompt_tokens": len(text) // 4,
        "completion_tokens": 12,
        "total_tokens": len(text) // 4 + 12,
    }
    common = {"id": "x", "created": 0, "model": asked.get("model")}
    if asked.get("stream"):
        return StreamingResponse(stream(common), media_type="text/event-stream")
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**common, "object": "chat.completion", "choices": [choice], "usage": usage}


async def stream(common):
    for word in ANSWER.split():
        delta = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
        piece = {**common, "object": "chat.completion.chunk", "choices": [delta]}
        yield f"data: {json.dumps(piece)}\n\n"
        await asyncio.sleep(0)
    yield "data: [DONE]\n\n"


@app.get("/v1/models")
async def models():
    return {
        "object": "list",
        "data": [{"id": "fake", "object": "model", "created": 0, "owned_by": "us"}],
    }


@app.get("/leaks")
async def leaks():
    return seen


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
