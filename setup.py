"""Which folders are packages; everything else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

# tasks/ stands at the top of the project and is installed as circuitfind.tasks.
setup(packages=[*find_packages(include=["circuitfind", "circuitfind.*"]), "circuitfind.tasks"])
