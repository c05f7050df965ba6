# A model as an HTTP service: docker build -t latens . && docker run -p 8000:8000 latens mnist-2d
# For a run of your own: docker run -p 8000:8000 -v ./runs/mine:/run:ro latens /run
FROM python:3.12-slim
# Where pip finds torch without CUDA, whose libraries take gigabytes: --build-arg EXTRA_INDEX=URL
ARG EXTRA_INDEX=
WORKDIR /latens
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN PIP_EXTRA_INDEX_URL=$EXTRA_INDEX pip install --no-cache-dir ".[serve]" -c constraints.txt
RUN useradd --create-home latens
USER latens
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["latens", "serve", "--host", "0.0.0.0"]
CMD ["mnist-2d"]
