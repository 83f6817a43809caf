"""Preference data: sources -> recognised form -> checked and split pairs, demonstrations and prompts."""

from kit.data.data import Data
from kit.data.load import load_data
from kit.data.rows import Demonstration, Message, Pair, Prompt, Split, prompt_key

__all__ = ["Data", "Demonstration", "Message", "Pair", "Prompt", "Split", "load_data", "prompt_key"]
