import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Box
from services.detector.infer import Unanswered, answer_of
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
