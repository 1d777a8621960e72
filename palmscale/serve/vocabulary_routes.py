"""`/tokenize`, `/detokenize` and `/tokenizer_info`, as evaluation harnesses ask for them."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from palmscale.infer.text import encode_prompt
from palmscale.serve.body import DetokenizeBody, TokenizeBody, parse
from palmscale.serve.dispatcher import Dispatcher
from palmscale.serve.limits import Limits
from palmscale.serve.protocol import check_ids, check_model
from palmscale.serve.reading import content_of
from palmscale.serve.served import BOS, EOD, PAD, Served


class VocabularyRoutes:
    """Text to token ids and back, over HTTP.

    Args:
        dispatcher: knows what is served.
        limits: of the server.
    """

    def __init__(self, dispatcher: Dispatcher, limits: Limits) -> None:
        self._dispatcher, self._limits = dispatcher, limits

    def routes(self) -> list[Route]:
        """Returns the routes, which stand at the server's root."""
        return [
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
        ]

    async def tokenize(self, request: Request) -> Response:
        """Answers the ids of a text, without the bos id, which every prompt gets when it is used.

        The text `</s>` alone stands for the end of a document, as harnesses ask for its id.
        """
        served = self._dispatcher.served
        content = await content_of(request, self._limits)
        ids = await run_in_threadpool(_tokenize, content, served)
        return JSONResponse(
            {"tokens": ids, "count": len(ids), "max_model_len": served.context_length}
        )

    async def detokenize(self, request: Request) -> Response:
        """Answers the text of ids."""
        served = self._dispatcher.served
        body = parse(DetokenizeBody, await content_of(request, self._limits))
        check_model(body.model, served)
        check_ids(body.tokens, served, field="tokens")
        return JSONResponse({"prompt": served.vocabulary.decode(body.tokens)})

    async def tokenizer_info(self, request: Request) -> Response:
        """Answers the texts of special tokens."""
        served = self._dispatcher.served
        return JSONResponse(
            {
                "tokenizer_class": served.vocabulary.name,
                "vocab_size": served.num_tokens,
                "eos_token": EOD,
                "bos_token": BOS,
                "pad_token": PAD,
                "chat_template": None,
            }
        )


def _tokenize(content: bytes, served: Served) -> list[int]:
    body = parse(TokenizeBody, content)
    check_model(body.model, served)
    special = {EOD: served.vocabulary.eod_id, BOS: served.vocabulary.bos_id}
    if body.prompt in special:
        return [special[body.prompt]]
    return encode_prompt(served.vocabulary, body.prompt)[1:].tolist()
