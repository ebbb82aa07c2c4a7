"""What pyproject.toml can't say: templates/ stands at the top level, and is installed as bundler/templates."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bundler*"]), "bundler.templates"],
    package_dir={"bundler.templates": "templates"},
)
