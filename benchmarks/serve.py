"""What a server does under load: 64 clients at once, and requests that arrive one at a time.

    python benchmarks/serve.py [--small] [--seconds=60] [--write]

The server is a process of its own with random weights; the clients are another one. Both share the
machine's cores, as a small deployment would. With --small the model is tiny and all is over in
seconds: it shows that the benchmark runs, and nothing of speed.
"""

import argparse
import asyncio
import dataclasses
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import page

PROMPT_TOKENS, MAX_TOKENS = 32, 64
CONTEXT_LENGTH, PREFILL_CHUNK = 512, 128
VOCABULARY = 32_000
CLIENTS = 64
SIZES = {
    "126M": {"dim": 768, "depth": 12, "heads": 6, "dim_head": 128, "num_tokens": VOCABULARY},
    "small": {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "num_tokens": VOCABULARY},
}


@dataclasses.dataclass
class Answer:
    """What a client saw of one request: when it began, and when each event came."""

    since: float
    at: list[float] = dataclasses.field(default_factory=list)
    tokens: int = 0
    error: str | None = None

    @property
    def first_seconds(self) -> float:
        return self.at[0] - self.since

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.at, self.at[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a tiny model, for a test")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement (60)")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--serve", metavar="SIZE", help=argparse.SUPPRESS)
    page.add_write(parser)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.slots)
        return
    result = measured("small" if args.small else "126M", args.slots, args.seconds)
    print(page.serve(page.circumstances() | result))
    if args.write:
        page.store("serve", result)


def serve(size: str, slots: int) -> None:
    """Serves a model of random weights, and prints its port."""
    from palmscale.serve.server import Address, Server

    def say(line: str) -> None:
        if line.startswith("Serving"):
            print(line, flush=True)

    Server(lambda: served(size, slots), address=Address(port=0), say=say, warn=say).run()


def served(size: str, slots: int) -> Any:
    """Returns a model of random weights behind an engine."""
    import jax
    import jax.numpy as jnp

    from palmscale import PaLM
    from palmscale.data.vocabulary import ByteVocabulary
    from palmscale.partition.shardings import unbox
    from palmscale.run.trained import Trained
    from palmscale.serve.load import warm
    from palmscale.serve.served import Served

    model = PaLM(**SIZES[size])
    params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"])
    vocabulary = ByteVocabulary()
    trained = Trained(
        model=model, params=params, vocabulary=vocabulary, step=0, meta={}, layout=None
    )
    engine = trained.engine(
        slots=slots, context_length=CONTEXT_LENGTH, prefill_chunk=PREFILL_CHUNK, donate=True
    )
    warm(engine)
    return Served(engine=engine, vocabulary=vocabulary, name=size, num_tokens=VOCABULARY)


def measured(size: str, slots: int, seconds: float) -> dict[str, Any]:
    """Returns all figures of a server that this function starts."""
    command = [sys.executable, __file__, f"--serve={size}", f"--slots={slots}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        port = int(line.partition("127.0.0.1:")[2].partition(":")[0])
        result = asyncio.run(_measured(port, process.pid, seconds))
    finally:
        process.terminate()
        code = process.wait(120)
    return {"size": size, "slots": slots, "exit_code": code} | result


async def _measured(port: int, pid: int, seconds: float) -> dict[str, Any]:
    await _closed_loop(port, 2, seconds / 30)  # sockets, allocators and caches are warm
    lone = [await _ask(port, seed, max_tokens=4) for seed in range(8)]
    chunk = [
        await _ask(port, 100 + seed, prompt_tokens=PREFILL_CHUNK, max_tokens=4) for seed in range(8)
    ]
    one = await _closed_loop(port, 1, seconds / 4)
    memory = [_rss(pid)]
    many = []
    for part in range(3):
        many += await _closed_loop(port, CLIENTS, seconds / 3, seed=1000 * part)
        memory.append(_rss(pid))
    held = await _slots_held(port)
    capacity = _speed(many)
    arriving = await _open_loop(port, capacity / MAX_TOKENS / 2, seconds)
    answered = [answer for answer in arriving if answer.error is None]
    lone_first = statistics.median(answer.first_seconds for answer in lone)
    step = statistics.median(gap for answer in answered for gap in answer.gaps)
    return {
        "one_client_tokens_per_second": _speed(one),
        "clients": CLIENTS,
        "tokens_per_second": capacity,
        "requests": len(many) + len(arriving),
        "errors": [answer.error for answer in many + arriving if answer.error],
        "slots_held": held,
        "rss_bytes": memory,
        "lone_first_seconds": lone_first,
        "chunk_seconds": statistics.median(answer.first_seconds for answer in chunk),
        "step_seconds": step,
        "arrivals_per_second": capacity / MAX_TOKENS / 2,
        "first_seconds_p95": _quantile([answer.first_seconds for answer in answered], 0.95),
        "greatest_gap_seconds": max(gap for answer in answered for gap in answer.gaps),
    }


async def _closed_loop(port: int, clients: int, seconds: float, seed: int = 0) -> list[Answer]:
    """Each client asks again as soon as it is answered; what is under way at the end finishes."""
    until, answers = time.perf_counter() + seconds, []

    async def client(number: int) -> None:
        chance = random.Random(seed + number)
        while time.perf_counter() < until:
            answers.append(await _ask(port, chance.randrange(2**31)))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return answers


async def _open_loop(port: int, per_second: float, seconds: float) -> list[Answer]:
    """Requests arrive as a Poisson process, whoever is still being answered."""
    chance, tasks, until = random.Random(0), [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        tasks.append(asyncio.create_task(_ask(port, chance.randrange(2**31))))
        await asyncio.sleep(chance.expovariate(per_second))
    return await asyncio.gather(*tasks)


async def _ask(
    port: int, seed: int, *, prompt_tokens: int = PROMPT_TOKENS, max_tokens: int = MAX_TOKENS
) -> Answer:
    """Asks for one stream and notes when its events come."""
    chance = random.Random(seed)
    body = {
        "prompt": [chance.randrange(3, VOCABULARY) for _ in range(prompt_tokens)],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "logprobs": 0,  # every token has an event of its own, also one without text
        "seed": seed,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = Answer(since=time.perf_counter())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            answer.error = status.decode().strip()
        async for line in reader:
            if line.startswith(b'data: {"id"'):
                event = json.loads(line[6:])
                if event["choices"]:
                    answer.at.append(time.perf_counter())
                else:
                    answer.tokens = event["usage"]["completion_tokens"]
            elif line.startswith(b'data: {"error"'):
                answer.error = line.decode()
        writer.close()
    except OSError as error:
        answer.error = str(error)
    if answer.error is None and answer.tokens != max_tokens:
        answer.error = f"{answer.tokens} tokens"
    return answer


async def _slots_held(port: int) -> int:
    """Returns how many sequences the server still has, a moment after nobody asks."""
    await asyncio.sleep(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    names = ("palmscale_running_sequences ", "palmscale_waiting_sequences ")
    return sum(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(names))


def _speed(answers: list[Answer]) -> float:
    answers = [answer for answer in answers if answer.at]
    seconds = max(a.at[-1] for a in answers) - min(a.since for a in answers)
    return sum(answer.tokens for answer in answers) / seconds


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _rss(pid: int) -> int:
    fields = pathlib.Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4096


if __name__ == "__main__":
    main()
