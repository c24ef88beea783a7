"""The request that each contract sends, and the parameters that it does not support."""

from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from engine.kit import Client, serving
from smg_proto.engine import GenerateParams, ParameterError, UnsupportedError
from smg_proto.engine._contracts import CONTRACTS, load
from smg_proto.engine._contracts.base import CLIENT_PARAMETERS
from smg_proto.engine._request import CONSTRAINTS, check

IDS: dict[str, Any] = {"token_ids": [5, 6], "request_id": "r", "max_tokens": 7}
# One value of every parameter.
VALUES: dict[str, Any] = {
    "prompt": "Once",
    "token_ids": [5, 6],
    "max_tokens": 7,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 3,
    "min_p": 0.125,
    "presence_penalty": 1.5,
    "frequency_penalty": -1.5,
    "repetition_penalty": 1.25,
    "logit_bias": {9: -2.5},
    "seed": 11,
    "n": 2,
    "stop": ["end"],
    "stop_token_ids": [13],
    "ignore_eos": True,
    "logprobs": 4,
    "prompt_logprobs": 4,
    "json_schema": '{"type":"object"}',
    "json_object": True,
    "regex": "a+",
    "grammar": "root ::= x",
    "choice": ["yes", "no"],
    "structural_tag": '{"tag":1}',
    "lora": "adapter",
    "model": "tiny",
    "request_id": "r",
    "timeout": 5.0,
    "metadata": {"a": "b"},
}
# Contract to the parameters that it cannot express.
UNSUPPORTED = {
    "vllm": {},
    "openengine.v1": {"logit_bias"},
    "sglang.runtime.v1": {"logit_bias", "json_object", "model"},
    "tokenspeed.grpc.scheduler": {
        *("prompt", "prompt_logprobs", "json_object", "choice", "lora", "model")
    },
    "mlx.grpc.engine": {
        *("min_tokens", "n", "stop", "prompt_logprobs", "lora", "model", *CONSTRAINTS)
    },
    "trtllm": {"prompt", "logit_bias", "choice", "lora", "model"},
    "vllm.grpc.engine": {"lora", "model"},
    "sglang.grpc.scheduler": {"prompt", "seed", "json_object", "choice", "model"},
}
# Contract to its request with every parameter that can be combined.
FULL = {
    "vllm.grpc.engine": """
request_id: "r" stream: true tokenized { input_ids: 5 input_ids: 6 }
sampling_params { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 max_tokens: 7 min_tokens: 2 stop: "end"
  stop_token_ids: 13 ignore_eos: true n: 2 logprobs: 4 prompt_logprobs: 4 seed: 11
  logit_bias { key: 9 value: -2.5 } regex: "a+" }
""",
    "sglang.grpc.scheduler": """
request_id: "r" stream: true tokenized { input_ids: 5 input_ids: 6 } lora_id: "adapter"
return_logprob: true logprob_start_len: 0 top_logprobs_num: 4
sampling_params { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 max_new_tokens: 7 min_new_tokens: 2 stop: "end"
  stop_token_ids: 13 ignore_eos: true n: 2 logit_bias { key: "9" value: -2.5 } regex: "a+" }
""",
    "tokenspeed.grpc.scheduler": """
request_id: "r" stream: true tokenized { input_ids: 5 input_ids: 6 }
return_logprob: true top_logprobs_num: 4
sampling_params { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 max_new_tokens: 7 min_new_tokens: 2 stop: "end"
  stop_token_ids: 13 ignore_eos: true n: 2 logit_bias { key: "9" value: -2.5 } regex: "a+"
  sampling_seed: 11 }
""",
    "trtllm": """
request_id: "r" streaming: true tokenized { input_token_ids: 5 input_token_ids: 6 } max_tokens: 7
sampling_config { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 min_tokens: 2 seed: 11 num_return_sequences: 2 }
output_config { logprobs: 4 prompt_logprobs: 4 } stop: "end" stop_token_ids: 13 ignore_eos: true
guided_decoding { guide_type: GUIDE_TYPE_REGEX guide: "a+" }
""",
    "mlx.grpc.engine": """
request_id: "r" stream: true tokenized { input_ids: 5 input_ids: 6 }
sampling_params { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 max_tokens: 7 stop_token_ids: 13 ignore_eos: true
  logprobs: 4 seed: 11 logit_bias { key: 9 value: -2.5 } }
""",
    "vllm": """
request_id: "r" model: "tiny" token_ids { ids: 5 ids: 6 } temperature: 0.5 lora_name: "adapter"
sampling { num_sequences: 2 top_k: 3 top_p: 0.25 min_p: 0.125 seed: 11 }
decoding { presence_penalty: 1.5 frequency_penalty: -1.5 repetition_penalty: 1.25
  logit_bias { key: 9 value: -2.5 } regex: "a+" }
stopping { max_new_tokens: 7 min_new_tokens: 2 stop_token_ids: 13 stop_strings: "end"
  ignore_eos: true }
response { output_token_ids: true output_logprobs: true output_candidates { top_n: 4 }
  prompt_logprobs: true prompt_token_ids: true prompt_candidates { top_n: 4 } }
""",
    "openengine.v1": """
request_id: "r" model: "tiny" token_ids { ids: 5 ids: 6 } lora_name: "adapter"
sampling { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 seed: 11 num_sequences: 2 }
stopping { max_tokens: 7 min_tokens: 2 ignore_eos: true
  conditions { stop_text: "end" } conditions { stop_token_id: 13 } }
response { return_output_logprobs: true output_candidates { top_n: 4 }
  return_prompt_logprobs: true prompt_candidates { top_n: 4 } }
guided { regex: "a+" }
""",
    "sglang.runtime.v1": """
rid: "r" stream: true input_ids: 5 input_ids: 6 lora_path: "adapter"
return_logprob: true logprob_start_len: 0 top_logprobs_num: 4
sampling_params { temperature: 0.5 top_p: 0.25 top_k: 3 min_p: 0.125 frequency_penalty: -1.5
  presence_penalty: 1.5 repetition_penalty: 1.25 max_new_tokens: 7 min_new_tokens: 2 stop: "end"
  stop_token_ids: 13 ignore_eos: true n: 2 seed: 11 guided_decoding { regex: "a+" } }
""",
}
# Contract to its request with only a prompt and `max_tokens`.
MINIMAL = {
    "vllm.grpc.engine": """request_id: "r" stream: true tokenized { input_ids: 5 input_ids: 6 }
sampling_params { top_p: 1 repetition_penalty: 1 max_tokens: 7 }""",
    "sglang.grpc.scheduler": """request_id: "r" stream: true
tokenized { input_ids: 5 input_ids: 6 } logprob_start_len: -1
sampling_params { temperature: 1 top_p: 1 top_k: -1 repetition_penalty: 1 max_new_tokens: 7 }""",
    "tokenspeed.grpc.scheduler": """request_id: "r" stream: true
tokenized { input_ids: 5 input_ids: 6 } sampling_params { max_new_tokens: 7 }""",
    "trtllm": """request_id: "r" streaming: true
tokenized { input_token_ids: 5 input_token_ids: 6 } max_tokens: 7""",
    "mlx.grpc.engine": """request_id: "r" stream: true
tokenized { input_ids: 5 input_ids: 6 } sampling_params { max_tokens: 7 }""",
    "vllm": """request_id: "r" token_ids { ids: 5 ids: 6 } stopping { max_new_tokens: 7 }
response { output_token_ids: true }""",
    "openengine.v1": """request_id: "r" token_ids { ids: 5 ids: 6 } stopping { max_tokens: 7 }""",
    "sglang.runtime.v1": """rid: "r" stream: true input_ids: 5 input_ids: 6
sampling_params { max_new_tokens: 7 }""",
}


def request(name: str, *, stream: bool = True, **params: Any) -> Message:
    contract, params = load(name), check(params)
    contract.check_supported(params)
    return contract.generate(params, stream).request


def assert_equals(message: Message, text: str) -> None:
    assert message == text_format.Parse(text, type(message)())


def test_the_tables_are_complete() -> None:
    assert VALUES.keys() == GenerateParams.__annotations__.keys()
    assert UNSUPPORTED.keys() == FULL.keys() == MINIMAL.keys() == CONTRACTS.keys()


@pytest.mark.parametrize("name", CONTRACTS)
def test_all_parameters_that_can_be_combined(name: str) -> None:
    omitted = {"prompt", "timeout", "metadata", *CONSTRAINTS, *UNSUPPORTED[name]}
    given = {key: value for key, value in VALUES.items() if key not in omitted}
    if "regex" not in UNSUPPORTED[name]:
        given["regex"] = VALUES["regex"]
    assert_equals(request(name, **given), FULL[name])


@pytest.mark.parametrize("name", CONTRACTS)
def test_unset_parameters_are_left_to_the_engine(name: str) -> None:
    assert_equals(request(name, **IDS), MINIMAL[name])


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_parameter_is_sent_or_rejected(name: str) -> None:
    bare = request(name, **IDS)
    for parameter, value in VALUES.items():
        given = {k: v for k, v in IDS.items() if (k, parameter) != ("token_ids", "prompt")}
        given[parameter] = value
        if parameter in UNSUPPORTED[name]:
            with pytest.raises(UnsupportedError) as caught:
                request(name, **given)
            assert (caught.value.contract, caught.value.what) == (name, parameter)
            assert str(caught.value).startswith(f"{name} does not support {parameter}: ")
        elif parameter not in CLIENT_PARAMETERS | IDS.keys():
            assert request(name, **given) != bare, f"{parameter} is lost"


@pytest.mark.parametrize("name", [name for name in CONTRACTS if UNSUPPORTED[name]])
def test_nothing_is_sent_for_an_unsupported_parameter(client: Client, name: str) -> None:
    parameter = min(UNSUPPORTED[name])
    with serving() as server:
        given = {k: v for k, v in IDS.items() if (k, parameter) != ("token_ids", "prompt")}
        for ask in (client.pieces, client.complete):
            with pytest.raises(UnsupportedError):
                ask(server.target, given | {parameter: VALUES[parameter]}, contract=name)
        assert [path for path in server.called if "Generate" in path] == []


@pytest.mark.parametrize(
    ("name", "parameters", "what"),
    [
        ("trtllm", {"token_ids": [1]}, "a request without max_tokens"),
        ("mlx.grpc.engine", IDS | {"logprobs": 0}, "logprobs=0"),
        ("openengine.v1", IDS | {"top_k": 0}, "top_k=0"),
        ("tokenspeed.grpc.scheduler", IDS | {"top_k": 0}, "top_k=0"),
    ],
)
def test_values_that_a_contract_does_not_support(
    name: str, parameters: dict[str, Any], what: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        request(name, **parameters)
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("name", "parameters", "why"),
    [
        ("trtllm", {"logit_bias": {1: 1.0}}, "takes a number for every token"),
        ("trtllm", {"lora": "a"}, "identifies adapters by number"),
        ("trtllm", {"token_ids": None, "prompt": "a"}, "pass token_ids"),
        ("trtllm", {"max_tokens": None}, "pass max_tokens"),
        ("sglang.grpc.scheduler", {"token_ids": None, "prompt": "a"}, "pass token_ids"),
        ("tokenspeed.grpc.scheduler", {"token_ids": None, "prompt": "a"}, "pass token_ids"),
        ("tokenspeed.grpc.scheduler", {"prompt_logprobs": 1}, "the reply has no field for them"),
        ("tokenspeed.grpc.scheduler", {"top_k": 0}, "leave it out"),
        ("openengine.v1", {"top_k": 0}, "leave it out"),
        ("mlx.grpc.engine", {"n": 2}, "one sequence per request"),
        ("mlx.grpc.engine", {"stop": "a"}, "use stop_token_ids"),
        ("mlx.grpc.engine", {"logprobs": 0}, "use at least 1"),
        ("vllm.grpc.engine", {"lora": "a"}, "the contract has no field for it"),
    ],
)
def test_the_error_says_why_and_what_to_do(name: str, parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        request(name, **IDS | parameters)


@pytest.mark.parametrize("name", ["sglang.grpc.scheduler", "sglang.runtime.v1"])
def test_top_k_zero_is_minus_one_for_sglang(name: str) -> None:
    sent: Any = request(name, **IDS, top_k=0)
    assert sent.sampling_params.top_k == -1


def test_the_error_names_a_number_out_of_the_contracts_range() -> None:
    assert request("vllm", **IDS, seed=2**40)
    with pytest.raises(ParameterError, match="invalid seed: out of the contract's range"):
        request("vllm.grpc.engine", **IDS, seed=2**40)


@pytest.mark.parametrize(
    ("name", "constraint", "expected"),
    [
        ("vllm.grpc.engine", "choice", 'choice { choices: "yes" choices: "no" }'),
        ("vllm.grpc.engine", "json_object", "json_object: true"),
        ("vllm", "json_schema", 'json: "{\\"type\\":\\"object\\"}"'),
        ("vllm", "choice", 'choice { choices: "yes" choices: "no" }'),
        ("sglang.grpc.scheduler", "grammar", 'ebnf_grammar: "root ::= x"'),
        ("sglang.runtime.v1", "choice", 'choice { values: "yes" values: "no" }'),
        ("sglang.runtime.v1", "grammar", 'ebnf: "root ::= x"'),
        ("openengine.v1", "json_object", "json_object { }"),
        ("openengine.v1", "choice", 'choice { choices: "yes" choices: "no" }'),
        ("trtllm", "json_object", 'guide_type: GUIDE_TYPE_JSON guide: "{}"'),
        ("trtllm", "structural_tag", 'guide: "{\\"tag\\":1}"'),
    ],
)
def test_constraints(name: str, constraint: str, expected: str) -> None:
    sent = request(name, **IDS, **{constraint: VALUES[constraint]})
    holders: dict[str, Any] = {
        "vllm.grpc.engine": lambda m: m.sampling_params,
        "sglang.grpc.scheduler": lambda m: m.sampling_params,
        "vllm": lambda m: m.decoding,
        "sglang.runtime.v1": lambda m: m.sampling_params.guided_decoding,
        "openengine.v1": lambda m: m.guided,
        "trtllm": lambda m: m.guided_decoding,
    }
    written = text_format.MessageToString(holders[name](sent), as_one_line=True)
    assert expected in written


def test_a_schema_may_be_a_mapping_and_a_stop_one_string() -> None:
    sent: Any = request("vllm", **IDS, json_schema={"type": "object"}, stop="end")
    assert sent.decoding.json == '{"type": "object"}'
    assert sent.stopping.stop_strings == ["end"]


def test_text_prompts() -> None:
    params: dict[str, Any] = {"prompt": "Once", "max_tokens": 7}
    for name in ("vllm.grpc.engine", "vllm", "mlx.grpc.engine", "sglang.runtime.v1"):
        sent: Any = request(name, **params)
        assert sent.text == "Once"
    openengine: Any = request("openengine.v1", **params)
    assert openengine.prompt == "Once"


@pytest.mark.parametrize("name", ["vllm.grpc.engine", "trtllm", "sglang.runtime.v1"])
def test_complete_does_not_request_a_stream(name: str) -> None:
    sent: Any = request(name, stream=False, **IDS)
    assert not (sent.streaming if name == "trtllm" else sent.stream)


def test_each_request_has_its_own_id() -> None:
    ids = {check({"token_ids": [1]})["request_id"] for _ in range(100)}
    assert len(ids) == 100 and all(len(request_id) == 32 for request_id in ids)


@pytest.mark.parametrize("name", ["sglang.grpc.scheduler", "sglang.runtime.v1"])
def test_prompt_and_output_share_one_number_of_candidates(name: str) -> None:
    alone: Any = request(name, **IDS, prompt_logprobs=3)
    assert (alone.return_logprob, alone.logprob_start_len, alone.top_logprobs_num) == (True, 0, 3)
    with pytest.raises(UnsupportedError, match="the contract has one field for both"):
        request(name, **IDS, prompt_logprobs=3, logprobs=2)
