import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Box
from services.detector.infer import Unanswered, answer_of, is_of_the_picture
from tests.detector.fake_ai import MODEL, PERSON, saw


def test_an_answer_of_the_replaced_system_without_a_model_is_understood():
    body = msgspec.json.encode({"detections": [PERSON]})
    answer = answer_of(body, 640, 360)
    assert answer.model is None
    assert [found.label for found in answer.found] == ["person"]


def test_a_box_that_stands_over_the_edge_by_a_rounding_is_cut_there():
    over = PERSON | {"boundingBox": {"x": -0.4, "y": 0.0, "width": 640.9, "height": 360.0}}
    [found] = answer_of(saw(over), 640, 360).found
    assert found.box == Box(x=0, y=0, width=640, height=360)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["detections", "label", "frame"]), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_whatever_json_comes_back_it_is_an_answer_or_unanswered(junk):
    for body in ({"detections": junk}, {"detections": [PERSON | {"boundingBox": junk}]}, junk):
        try:
            answer = answer_of(msgspec.json.encode(body), 640, 360)
        except Unanswered as error:
            assert error.reason == "AI_ANSWER"
        else:
            assert all(0 <= found.confidence <= 1 for found in answer.found)


@pytest.mark.parametrize("model", [{"name": "x"}, 3, [MODEL]])
def test_a_model_that_does_not_say_which_it_is_is_no_answer(model):
    with pytest.raises(Unanswered):
        answer_of(msgspec.json.encode({"detections": [], "model": model}), 640, 360)


OURS = "https://sightlog.dev/problems/"
REFUSALS = {
    "our AI service's of a cut JPEG": ({"type": f"{OURS}unusable-picture"}, True),
    "our AI service's of a large one": ({"type": f"{OURS}body-too-large"}, True),
    "our AI service's of minConfidence=7": ({"type": f"{OURS}invalid-parameters"}, False),
    "our AI service's of a content type": ({"type": f"{OURS}unsupported-type"}, False),
    "FastAPI's of a parameter": ({"detail": [{"loc": ["query", "minConfidence"]}]}, False),
    "FastAPI's of its own making": ({"detail": "cannot identify image file"}, True),
    "somebody's": ({"error": "not an image"}, True),
    "a list": ([1], True),
    "of another kind": ({"type": 3}, True),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_of_the_picture_unless_it_says_that_we_asked_wrongly(refusal):
    said, is_so = REFUSALS[refusal]
    assert is_of_the_picture(msgspec.json.encode(said)) is is_so


@given(st.binary(max_size=50))
def test_a_refusal_that_says_nothing_is_of_the_picture(junk):
    assert is_of_the_picture(b"\xff" + junk)
