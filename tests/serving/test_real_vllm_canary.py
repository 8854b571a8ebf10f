"""A canary between two adapters on a real vLLM server, behind a real gateway, while others are loaded and unloaded.

The adapters give themselves away (`telling_adapters.py`), so each answer shows who gave it. The first run makes an
environment with vLLM (minutes). `pytest -s` prints the figures.
"""

import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from adapter_bundles import publish_folder
from gateway_process import GatewayProcess, Load
from real_vllm import RealVllm
from telling_adapters import save_telling_adapter
from tiny_llama import REPOSITORY

from finetune_platform import audit
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.routes import edited
from finetune_platform.task_file import load_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WORDS = (" apple", " river", " seven")
TOKENS = 2
REQUESTS = 2000
READING_S = 0.5
"""How long a client may need to read what the gateway sent before."""


def test_a_canary_and_its_rollback_with_loads_and_unloads_under_way(tmp_path: Path, package_cache: Path) -> None:
    reference = load_task(REPOSITORY / "tasks" / "contract_entities.yaml").base_model
    base = resolve_base_model(reference, tmp_path, Lake(str(tmp_path / "models")), package_cache, print).path
    folders = {word: tmp_path / word.strip() for word in WORDS}
    for word, folder in folders.items():
        save_telling_adapter(base, word, folder)
    server = RealVllm(base, tmp_path / "vllm.log")
    print(f"\nvLLM up in {server.start():.0f} s")
    gateway = GatewayProcess(tmp_path)
    says: dict[str, str] = {}

    def publish(task: str, word: str, note: str = "") -> str:
        adapter = publish_folder(gateway.lake, task, folders[word], "Name the topic.", note)
        says[adapter] = word * TOKENS
        return adapter

    def serve(task: str, **changes: object) -> None:
        routes.change(
            gateway.database, task, lambda plan: edited(plan, **changes), actor="test", action="route.edit", reason="-"
        )

    try:
        engine = {"base": {"kind": "openai", "urls": [server.url], "model": "smollm2"}, "timeout_s": 120.0}
        topics = gateway.task("topics", server.url, serving=engine)
        gateway.task("others", server.url, serving=engine)
        champion, canary = publish("topics", WORDS[0]), publish("topics", WORDS[1])
        serve("topics", champion=champion)
        serve("others", champion=publish("others", WORDS[2]))
        caller, operator = gateway.key("caller"), gateway.key("operator")
        gateway.start()
        rollouts.ensure_started(gateway.database, topics, canary, actor="test", reason="a new adapter")
        serve("topics", canary_share=0.5)
        replaced, ended = Counter[str](), threading.Event()

        def replace() -> None:
            """Other weights, or the same ones again, under an id never seen before."""
            for number in itertools.count():
                word = random.Random(number).choice(WORDS)
                serve("others", champion=publish("others", word, f"number {number}"))
                replaced["loads"] += 1
                if ended.wait(1.0):
                    return

        replacing = threading.Thread(target=replace)
        replacing.start()
        started = time.monotonic()
        try:
            asking = {"max_tokens": TOKENS, "temperature": 0}
            with Load(gateway, caller, ["topics", "topics", "others"], clients=8, **asking) as load:
                load.wait_for(REQUESTS // 2, at_most_s=900)
                assert gateway.operate(operator, "topics", "rollback").ok
                rolled_back = time.monotonic()
                load.wait_for(REQUESTS // 2, at_most_s=900)
        finally:
            ended.set()
            replacing.join()
        seconds = time.monotonic() - started
        by = Counter(answer.adapter for answer in load.answers)
        # The base model answers for an adapter that is not loaded yet. What it says gives nobody away.
        wrong = [a for a in load.answers if a.adapter != "base" and a.text != says.get(a.adapter)]
        print(
            f"{len(load.answers)} answers in {seconds:.0f} s, {len(wrong)} wrong; champion {by[champion]}, canary "
            f"{by[canary]}, base {by['base']}; {replaced['loads']} adapters replaced, {len(by)} of all answered"
        )
        assert (wrong, load.statuses, load.unreachable) == ([], [], 0)
        assert len(load.answers) >= REQUESTS and by[champion] > 100 and by[canary] > 100
        # What was replaced while its answer was being given is broken off, never finished by another.
        assert load.broken <= replaced["loads"] + 8
        late = [answer for answer in load.answers if answer.adapter == canary and answer.began > rolled_back]
        pieces = [p for p in load.pieces if p.adapter == canary and p.came > rolled_back + READING_S]
        assert (late, pieces) == ([], [])
        assert replaced["loads"] >= 20 and len(by) >= 10
        with gateway.database.reading() as session:
            row = rollouts.latest(session, "topics")
        assert row is not None and row.state == "rolled_back"
        assert audit.verify(gateway.database).broken == []
    finally:
        gateway.stop()
        gateway.database.close()
        server.stop()
