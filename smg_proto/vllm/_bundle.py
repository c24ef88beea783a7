"""The tokenizer files that a server sends, with the errors of this client."""

from smg_proto._tokens.bundle import Bundle
from smg_proto.vllm._errors import VLLMGrpcDataLossError


class TokenizerBundle(Bundle):
    """A ZIP archive with tokenizer.json and its neighbours."""

    @classmethod
    def damaged(cls, problem: str) -> VLLMGrpcDataLossError:
        return VLLMGrpcDataLossError(f"the tokenizer bundle {problem}", code="DATA_LOSS")
