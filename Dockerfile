# Two stages: the first builds the wheel and installs it with the pinned dependencies, the second only runs it.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /build \
 && /build/bin/pip install -q --no-cache-dir --require-hashes -r requirements-build.lock \
 && python -m venv --without-pip /opt/gatewayz \
 && /build/bin/uv pip install -q --no-cache --compile-bytecode --python /opt/gatewayz/bin/python \
      --only-binary :all: --require-hashes -r requirements.lock
COPY . .
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
 && /build/bin/uv pip install -q --no-cache --compile-bytecode --python /opt/gatewayz/bin/python --no-deps /dist/*.whl

FROM python:3.13-slim
# PostgreSQL's initdb looks its user up by number, so the user must have a name.
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/lib/gatewayz gatewayz \
 && mkdir /etc/gatewayz
COPY --from=build /opt/gatewayz /opt/gatewayz
ENV PATH=/opt/gatewayz/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAYZ_HOME=/var/lib/gatewayz/data
# gateway.yaml and the YAML folders are mounted here; without any, the shipped ones serve.
WORKDIR /etc/gatewayz
USER 10001:10001
VOLUME /var/lib/gatewayz
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
CMD ["gatewayz", "serve", "--host", "0.0.0.0", "--port", "8000"]
