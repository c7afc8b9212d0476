"""The proof of a score: what is coded is what was claimed, and another process has it back."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitgolf.data.prepare import prepare
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import read_json
from bitgolf.journal import Journal
from bitgolf.model.core import load_weights
from bitgolf.pack.coders import Range
from bitgolf.quantize.codes import encode_all
from bitgolf.recipe import Recipe
from bitgolf.score import artifact, certificate, coder
from bitgolf.score.certificate import Claim, draw, false_share, first, grouped, prove
from bitgolf.score.lora import DocumentLora
from bitgolf.score.text import Text, of_documents, validation
from bitgolf.score.windows import Sliding
from bitgolf.spec import Spec, part
from bitgolf.text.documents import Document
from bitgolf.tokens.kinds import load_tokenizer
from bitgolf.tokens.sentencepiece import SentencePiece
from bitgolf.tokens.train import SentencePieceBPE
from toy import toy_recipe
from toy_training import make_trainer

QUIET = Journal(quiet=True)
