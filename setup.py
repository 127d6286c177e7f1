"""Builds the package `sam3-hf`; the tested versions of everything it needs stand in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "train": ["datasets>=3.0", "peft>=0.15", "pycocotools>=2.0.8", "pyyaml>=6.0", "tensorboard>=2.15"],
    "evaluate": ["datasets>=3.0", "matplotlib>=3.8", "pycocotools>=2.0.8", "pyyaml>=6.0", "trackeval>=1.3"],
    "video": ["av>=14.0"],
    "demo": ["av>=14.0", "gradio>=6.31,<7"],
    "dev": [
        "av>=14.0",
        "datasets>=3.0",
        "gradio>=6.31,<7",
        "matplotlib>=3.8",
        "mypy>=1.15",
        "peft>=0.15",
        "pycocotools>=2.0.8",
        "psutil>=5.9",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "pyyaml>=6.0",
        "ruff>=0.9",
        "selenium>=4.20",
        "trackeval>=1.3",
    ],
}

setup(
    name="sam3-hf",
    version="0.1.0",
    description="SAM 3 (Segment Anything with Concepts) in the manner of transformers, equal to the reference",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The sam3_hf authors",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"sam3_hf": ["py.typed", "assets/*", "assets/sam3-hf-tiny/*", "demo/page/stage.*", "demo/page/*.css"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.8",
        "transformers>=5.10,<6",
        "accelerate>=1.1",
        "ftfy>=6.1",
        "huggingface-hub>=1.5",
        "numpy>=1.26",
        "pillow>=10.1",
        "regex>=2024.4",
        "requests>=2.31",
        "safetensors>=0.5",
        "scipy>=1.11",
        "tokenizers>=0.22",
        "tqdm>=4.66",
        "typing-extensions>=4.5",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["sam3-hf=sam3_hf.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
