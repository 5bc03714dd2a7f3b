# The service. Data lie in /data: the store (unless COPERSONA_STORE names a database) and the fitted
# states, which all processes of a deployment share.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/copersona && \
    /opt/copersona/bin/pip install --no-cache-dir '.[serve,postgres]'

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --home-dir /data copersona && \
    install -d -o copersona -g copersona -m 0700 /data
COPY --from=build /opt/copersona /opt/copersona
ENV PATH=/opt/copersona/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COPERSONA_STORE=/data/people.db \
    COPERSONA_STATE=/data/state
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["copersona"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
