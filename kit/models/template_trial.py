"""A base's chat template, tried in a process of its own before it renders the data: does it come to an end?

Nothing within a process stops a template that counts to infinity. transformers renders templates in jinja's sandbox,
out of which no attribute leads; time and memory are what a template can still take.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from kit.config import ModelSettings
from kit.errors import ModelError

MAX_CHARACTERS = 200_000  # the longest in use have a fifth of that
_SECONDS = 5
_PATIENCE_SECONDS = 60  # by the clock, on a machine that is busy
_RENDERED_CHARACTERS = 1_000_000
# jinja's sandbox as transformers sets it up, which would take seconds to import. Other errors are met again in earnest.
_TRIAL = """
import contextlib, json, sys
given = json.loads(sys.stdin.read())
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from jinja2 import ext, sandbox
class Generation(ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)
user, said = {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}
talks = [[user], [user, said], [{"role": "system", "content": "Be brief."}, user, said, user]]
environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
def refuse(message): raise ValueError(message)
environment.globals.update(raise_exception=refuse, strftime_now=lambda form: "2026")
for talk in talks:
    for prompt in (True, False):
        try:
            template = environment.from_string(given["template"])
            text = template.render(messages=talk, add_generation_prompt=prompt, tools=None, documents=None,
                                   **given["tokens"])
        except MemoryError:
            sys.exit(3)
        except Exception:
            continue
        if len(text) > given["characters"]:
            sys.exit(3)
print("ended")
"""


def check_template(tokenizer: Any, settings: ModelSettings) -> None:
    """Raise ModelError for a chat template that is huge, or that does not come to an end within seconds and a GiB."""
    template = tokenizer.chat_template
    for text in template.values() if isinstance(template, Mapping) else [template]:
        if not isinstance(text, str):
            continue
        where = f"model.base {settings.base}: its chat template"
        if len(text) > MAX_CHARACTERS:
            raise ModelError(f"{where} has {len(text):,} characters; at most {MAX_CHARACTERS:,} can be meant")
        tokens = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        if not _comes_to_an_end(text, json.dumps(tokens, sort_keys=True)):
            raise ModelError(
                f"{where} does not come to an end on a conversation of a few words, within {_SECONDS} s and 1 GiB; "
                "remove it from a local copy of the model (a plain one is then used), or choose another model"
            )


@functools.lru_cache(maxsize=8)
def _comes_to_an_end(template: str, tokens: str) -> bool:
    """Whether a trial of the template ends by itself; True where no trial can be made here."""
    limits = {"seconds": _SECONDS, "characters": _RENDERED_CHARACTERS}
    given = json.dumps({"template": template, "tokens": json.loads(tokens), **limits})
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL], input=given, capture_output=True, text=True, encoding="utf-8",
            timeout=_PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        return True
    return done.returncode in (0, 1)  # 1: Python's own errors, such as an import that fails
