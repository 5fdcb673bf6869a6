from services.detector.ration import Ration


def test_snapshots_of_a_stream_are_spaced_over_the_minute():
    ration = Ration(60)
    kept = [now / 10 for now in range(600) if ration.allows("door", now / 10)]
    assert len(kept) == 60
    assert kept[-1] >= 59


def test_streams_have_a_ration_each():
    ration = Ration(60)
    assert ration.allows("door", 0)
    assert not ration.allows("door", 0.5)
    assert ration.allows("yard", 0.5)


def test_a_ration_of_none_keeps_none():
    assert not Ration(0).allows("door", 0)


def test_streams_that_no_longer_ask_are_forgotten():
    ration = Ration(60)
    for stream in range(1000):
        ration.allows(str(stream), 0)
    ration.allows("door", 100)
    assert len(ration) == 1
