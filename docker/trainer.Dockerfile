# A worker: torch and the trainer; it needs a URL and a key, no database.
FROM python:3.11-slim

# Another build of torch (CUDA, ROCm): --build-arg TORCH=... TORCH_INDEX="--index-url ..."
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=

# cc builds the mask and optimizer kernels on first use; without it the torch versions run.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY trainer trainer
COPY migrations migrations
RUN pip install --no-cache-dir ${TORCH} ${TORCH_INDEX} \
    && pip install --no-cache-dir -c constraints.txt '.[trainer]' \
    && useradd --system --uid 10001 --create-home --home-dir /home/dropt dropt

USER dropt
WORKDIR /home/dropt
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["dropt-worker"]
CMD ["--server", "http://service:8000"]
