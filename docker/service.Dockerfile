# The service: HTTP, scheduling, storage. No torch in it.
FROM python:3.11-slim

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY trainer trainer
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt . \
    && useradd --system --uid 10001 --home-dir /state dropt \
    && install --directory --owner=dropt /state

USER dropt
WORKDIR /state
ENV DROPT_STATE=/state PYTHONUNBUFFERED=1
VOLUME /state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["dropt"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--workers", "0"]
