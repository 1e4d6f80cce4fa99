# A worker, or any operator command, of Orderstream: `docker run orderstream faust -A app topics`.
# Kafka and PostgreSQL are elsewhere: the embedded ones, and the tools of development, do not go into the image.

FROM python:3.11-slim-bookworm AS build
COPY deploy/requirements.lock /
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /requirements.lock

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent orderstream \
 && install --directory --owner=orderstream --group=orderstream --mode=0750 /var/lib/orderstream
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/orderstream
COPY . .
RUN /opt/venv/bin/python -m compileall -q .
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORDERSTREAM_DATA_DIR=/var/lib/orderstream \
    ORDERSTREAM_WEB_HOST=0.0.0.0
USER 10001:10001
VOLUME /var/lib/orderstream
EXPOSE 6066
# Live, not ready: a worker that waits for its broker must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:6066/health/live', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["faust", "-A", "app", "worker"]
