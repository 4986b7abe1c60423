"""What editors and type checkers are told of the public names; check_types.py asks mypy itself."""

import inspect
from dataclasses import fields
from functools import cached_property

import pytest

import pyx_transformer as pt
from pyx_transformer import config_values, token_config
from pyx_transformer.generation.settings import GenerationSettings, TextSettings

# What a class has besides its public methods.
SPECIAL = ("__init__", "__call__", "__len__", "__getitem__", "__iter__")
# Of a training pass, whose functions know what they are given.
OF_TRAINING = ("forward",)
# These give what other packages have, or a model of any kind.
ANYTHING = ("Job.meta", "Job.schema", "Job.open", "Trained.model")


def public():
    """Yield (dotted name, object) of every public class and function."""
    for name in pt.__all__:
        value = getattr(pt, name)
        if inspect.ismodule(value):
            for inner in getattr(value, "__all__", ()):
                yield f"{name}.{inner}", getattr(value, inner)
        else:
            yield name, value


PUBLIC = {name: value for name, value in public() if callable(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def functions_of(value):
    """Yield (name, function) of a class, the package's own bases included; or the function."""
    if not inspect.isclass(value):
        yield value.__name__, value
        return
    for kind in value.__mro__:
        if not kind.__module__.startswith("pyx_transformer"):
            continue
        for name, member in vars(kind).items():
            if isinstance(member, property | cached_property):
                member = getattr(member, "fget", None) or member.func
            member = getattr(member, "__func__", member)
            is_public = not name.startswith("_") or name in SPECIAL
            if inspect.isfunction(member) and is_public and name not in OF_TRAINING:
                yield f"{kind.__name__}.{name}", member


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures_are_typed(name):
    for where, function in functions_of(PUBLIC[name]):
        if not function.__module__.startswith("pyx_transformer"):
            continue  # what dataclasses and named tuples make, of the types of their fields
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        assert untyped == [], where
        if not where.endswith("__init__"):
            assert signature.return_annotation is not signature.empty, where
            assert signature.return_annotation != "Any" or where in ANYTHING, where


@pytest.mark.parametrize("name", CLASSES)
def test_calling_a_class_is_documented(name):
    """An editor shows what `__init__` says, else what the class does."""
    kind = CLASSES[name]
    assert kind.__doc__
    if issubclass(kind, (tuple, list, dict)) or kind is pt.text.Tokenizer:
        return  # those have their fields or items, and a protocol is not called
    documented = kind.__new__ if issubclass(kind, str) else kind.__init__
    assert documented.__doc__ not in (None, object.__init__.__doc__)
    for argument in inspect.signature(kind).parameters.values():
        if argument.kind is argument.POSITIONAL_OR_KEYWORD:
            said = documented.__doc__ + kind.__doc__
            assert argument.name in said, f"{name} says nothing of {argument.name}"


def test_single_options_are_those_of_the_options():
    options = {field.name: field.type for field in fields(pt.GenerationOptions)}
    assert {name: hint.__forward_arg__ for name, hint in hints(GenerationSettings)} == options
    assert {name for name, _ in hints(TextSettings)} == {*options, "options"}


def hints(kind):
    return kind.__annotations__.items()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pt.TransformerConfig, config_values.TransformerValues),
        (pt.TransformerLMConfig, config_values.LanguageModelValues),
        (pt.EncoderConfig, config_values.EncoderValues),
    ],
)
def test_values_of_configs_are_their_fields(kind, values):
    by_position = {*inspect.signature(kind).parameters} - {"values"}
    assert {name for name, _ in hints(values)} == kind.names() - by_position
    types = {field.name: field.type for field in fields(kind)}
    for name, hint in hints(values):
        if name in types:
            assert hint.__forward_arg__ == types[name], name
        elif name in token_config.PLAIN:
            assert type(token_config.PLAIN[name]).__name__ in hint.__forward_arg__
