# The toolkit with its model package, for processors only. Build from the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t remot:cpu .
FROM python:3.11-slim
WORKDIR /opt/remot
COPY pyproject.toml constraints.txt README.md ./
COPY remot_data remot_data
COPY remot_model remot_model
RUN pip install --no-cache-dir -c constraints.txt ".[train]"
WORKDIR /data
ENTRYPOINT ["remot"]
CMD ["--help"]
