"""What the parts of a gin configuration refer to."""

import functools
import logging
import re

import gin

# What a reference to a macro, %name, is: name/gin.macro.
MACRO = "gin.macro"
# Functions that programs call; whatever else is configured is referred to.
CALLED = ("amalgamate", "evaluate", "grid_search", "campaign")
# Scope, function and parameter of each binding; of a macro the last is all.
_BOUND = re.compile(r"^(?:([\w/]+)/)?(?:([\w.]+)\.)?(\w+)\s*=(?!=)", re.MULTILINE)


def meant(reference):
    """Returns what a reference stands for where it is a macro, else itself."""
    selector = getattr(reference, "scoped_selector", "")
    if not selector.endswith(MACRO):
        return reference
    return meant(gin.query_parameter(selector.replace(MACRO, "macro.value")))


def bindings_of(reference):
    """Yields selector and bindings of a reference and of all that it refers to."""
    reference = meant(reference)
    if not (selector := getattr(reference, "scoped_selector", "")):
        return
    bound = gin.get_bindings(selector, resolve_references=False)
    bound = {name: meant(value) for name, value in bound.items()}
    yield selector, bound
    for value in bound.values():
        yield from bindings_of(value)


def reached(name):
    """Returns the selectors of a function and of all that its bindings refer to."""
    found = {name}

    def follow(value):
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list | tuple):
            for one in value:
                follow(one)
            return
        selector = getattr(value, "scoped_selector", "")
        if not selector or selector in found:
            return
        found.add(selector)
        if selector.endswith(MACRO):
            follow(gin.query_parameter(selector.replace(MACRO, "macro.value")))
        else:
            follow(gin.get_bindings(selector, resolve_references=False))

    follow(gin.get_bindings(name, resolve_references=False))
    return found


def is_of(name, reached):
    """Returns whether what is bound by a name changes what is reached."""
    bound, _, _ = name.rpartition(".")
    if not bound:  # a macro
        return f"{name}/{MACRO}" in reached
    scope, _, function = f"/{bound}".rpartition("/")
    for selector in reached:
        inside, _, mine = f"/{selector}".rpartition("/")
        same = mine.rpartition(".")[-1] == function.rpartition(".")[-1]
        if same and f"{inside}/".startswith(f"{scope}/"):
            return True
    return False


def check_used(called, lines, configuration=None):
    """Raises ValueError for a parameter that is bound without its function's name.

    To gin that is a macro, be it one that nothing refers to. Warns of other bindings
    that nothing in the configuration refers to.

    Args:
        called: parameters of the functions that are called, by name.
        lines: bindings of the call.
        configuration: texts of all configurations that these are a part of; by default
            the one that was parsed.
    """
    configuration = configuration or gin.config_str()
    text = "\n".join(str(line).strip() for line in lines)
    for scope, function, bound in _BOUND.findall(text):
        if not function:
            asked_for = re.search(rf"%{bound}\b", configuration)
            if scope or bound == "data_dir" or asked_for:
                continue
            if owners := [name for name in called if bound in called[name]]:
                raise ValueError(
                    f"{bound} is a parameter: bind it with its function's name, "
                    f"{' or '.join(f'{name}.{bound}' for name in owners)}."
                )
            _warn_once(f"{bound} is bound, but nothing refers to %{bound}.")
            continue
        base = function.rpartition(".")[-1]
        scoped = f"{scope}/" if scope else ""
        if base not in CALLED and not re.search(
            rf"@(\w+/)*{scoped}(\w+/)*([\w.]+\.)?{base}\b", configuration
        ):
            _warn_once(
                f"{scoped}{function}.{bound} is bound, but nothing refers to "
                f"@{scoped}{function}. (What is named by a text, as a student or a "
                "teacher may be, takes no bindings: give a reference.)"
            )


@functools.cache
def _warn_once(message):
    logging.warning(message)
