"""The page as a reviewer meets it, in Chromium."""

from __future__ import annotations

import re
import signal
import time
from itertools import count
from typing import Any

import numpy as np
import pytest

from srmri_data.review_merge import decide_at_terminal
from srmri_data.run_folder import open_run, read_pairs, write_pairs
from srmri_data.store import ReviewStore

_numbers = count(1)

PIXELS = """() => {
  const canvas = document.querySelector('#canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let hash = 0, peak = 0;
  for (let i = 0; i < data.length; i += 4) {
    hash = (Math.imul(hash, 31) + data[i] * 65536 + data[i + 1] * 256 + data[i + 2]) | 0;
    peak = Math.max(peak, data[i], data[i + 1], data[i + 2]);
  }
  return [hash, peak];
}"""


@pytest.fixture
def name() -> str:
    """A reviewer nobody else is."""
    return f"reviewer-{next(_numbers)}"


def drawn(page: Any) -> tuple[int, int]:
    """Return a hash of the canvas and its brightest value, after the next frame."""
    page.evaluate("() => new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")
    hashed, peak = page.evaluate(PIXELS)
    return hashed, peak


def canvas(page: Any, name: str) -> str:
    return str(page.get_attribute("#canvas", f"data-{name}"))


def shows(page: Any, name: str, value: object) -> None:
    """Wait until the canvas says so."""
    page.wait_for_function(
        "([name, value]) => document.querySelector('#canvas').dataset[name] === value",
        arg=[name, str(value)],
    )


def settle(page: Any, key: str) -> None:
    """Press a key that decides, and wait for the next item."""
    before = canvas(page, "item")
    page.keyboard.press(key)
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item !== lr", arg=before
    )


def of(server: Any, reviewer: str, expected: int = 0) -> list[Any]:
    """Return a reviewer's events; decisions are on their way while the next item is drawn."""
    deadline = time.monotonic() + 5
    while True:
        events = [event for event in server.events() if event.reviewer == reviewer]
        if len(events) >= expected or time.monotonic() > deadline:
            return events
        time.sleep(0.02)


def progress(page: Any) -> tuple[int, int]:
    values = [page.get_attribute("#progress", f"data-{name}") for name in ("done", "total")]
    return int(values[0]), int(values[1])


# Deciding


def test_a_digit_and_enter_write_one_event_and_advance(open_page, server, name):
    page = open_page(name)
    first = int(canvas(page, "item"))
    page.keyboard.press("2")
    second = page.locator("#strip [data-candidate='2']")
    assert second.get_attribute("aria-pressed") == "true"
    chosen = int(second.get_attribute("data-hr"))
    shows(page, "hr", chosen)
    # Choosing is not deciding.
    assert of(server, name) == []
    settle(page, "Enter")
    (event,) = of(server, name, 1)
    assert (event.kind, event.lr_slice, event.choice) == ("decision", first, chosen)
    assert chosen in event.shown
    assert event.visible_ms > 0
    assert event.tool_version
    assert int(canvas(page, "item")) != first
    assert progress(page)[0] == 1


@pytest.mark.parametrize(("key", "choice"), [("x", "none"), ("u", "unsure")])
def test_one_key_says_none_or_unsure(open_page, server, name, key, choice):
    page = open_page(name)
    settle(page, key)
    assert [event.choice for event in of(server, name, 1)] == [choice]


def test_buttons_do_what_keys_do(open_page, server, name):
    page = open_page(name)
    page.click("#strip [data-candidate='1']")
    chosen = int(page.get_attribute("#strip [data-candidate='1']", "data-hr"))
    page.click("#confidence button[data-confidence='3']")
    page.fill("#note", "left bulb is missing")
    before = canvas(page, "item")
    page.click("#accept")
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item !== lr", arg=before
    )
    for button in ("#none", "#unsure"):
        before = canvas(page, "item")
        page.click(button)
        page.wait_for_function(
            "lr => document.querySelector('#canvas').dataset.item !== lr", arg=before
        )
    events = of(server, name, 3)
    assert [event.choice for event in events] == [chosen, "none", "unsure"]
    assert (events[0].confidence, events[0].note) == (3, "left bulb is missing")
    # Neither is carried on to the next item.
    assert (events[1].confidence, events[1].note) == (None, "")


def test_enter_accepts_what_was_clicked(open_page, server, name):
    # The click leaves the focus on a button; Enter must not press that button again.
    page = open_page(name)
    before = canvas(page, "item")
    page.click("#strip [data-candidate='2']")
    chosen = int(page.get_attribute("#strip [data-candidate='2']", "data-hr"))
    page.click("#view-buttons [data-view='difference']")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item !== lr", arg=before
    )
    assert [event.choice for event in of(server, name, 1)] == [chosen]


def test_buttons_can_be_pressed_with_the_keyboard(open_page, server, name):
    page = open_page(name)
    page.focus("#view-buttons [data-view='checker']")
    page.keyboard.press("Enter")
    assert canvas(page, "view") == "checker"
    page.focus("#unsure")
    settle(page, " ")
    assert [event.choice for event in of(server, name, 1)] == ["unsure"]


def test_nothing_is_decided_about_an_item_that_is_not_drawn_yet(
    new_window, open_page, server, name
):
    window = new_window()
    window.add_init_script(
        """const {fetch} = window;
        window.fetch = async (...request) => {
          if (/image\\/lr/.test(request[0])) await new Promise(done => setTimeout(done, 600));
          return fetch(...request);
        };"""
    )
    page = open_page(name, within=window)
    first = int(canvas(page, "item"))
    for key in ("x", "u", "1", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item !== lr", arg=str(first)
    )
    page.wait_for_timeout(300)
    assert [(event.lr_slice, event.choice) for event in of(server, name, 1)] == [(first, "none")]


def test_undo_and_redo(open_page, server, name):
    page = open_page(name)
    first = canvas(page, "item")
    settle(page, "x")
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '0'")
    # Back where it was decided.
    shows(page, "item", first)
    assert [event.kind for event in of(server, name, 2)] == ["decision", "undo"]
    page.keyboard.press("Control+Shift+z")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '1'")
    events = of(server, name, 3)
    assert events[1].undoes == events[0].id
    mine = {
        item["item"]: item["mine"]
        for item in server.get_json(f"/api/queue?reviewer={name}")["items"]
    }
    assert mine[int(first)] == "none"
    page.click("#undo")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '0'")
    page.click("#redo")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '1'")


def test_undo_with_nothing_to_undo_says_so(open_page, server, name):
    page = open_page(name)
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelector('#status').textContent.trim() !== ''")
    assert of(server, name) == []


def test_reload_resumes(open_page, server, name):
    page = open_page(name)
    settle(page, "x")
    settle(page, "u")
    here, done = canvas(page, "item"), progress(page)
    page.reload()
    page.wait_for_selector("body[data-ready='1']")
    assert (canvas(page, "item"), progress(page)) == (here, done)
    assert done[0] == 2


def test_closing_the_tab_loses_nothing(open_page, server, name):
    page = open_page(name)
    before = canvas(page, "item")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item !== lr", arg=before
    )
    page.close(run_before_unload=False)
    assert len(of(server, name, 1)) == 1


def test_a_later_look_shows_and_changes_the_earlier_decision(open_page, server, name):
    page = open_page(name)
    first = canvas(page, "item")
    settle(page, "x")
    settle(page, "k")
    assert canvas(page, "item") == first
    settle(page, "u")
    events = of(server, name, 2)
    assert [event.choice for event in events] == ["none", "unsure"]
    assert events[0].revision < events[1].revision


def test_two_reviewers_are_blind_to_each_other(new_window, open_page, server, name):
    one = open_page(name)
    lr_slice = int(canvas(one, "item"))
    one.fill("#note", "a tell-tale note")
    one.locator("#note").blur()
    settle(one, "x")
    window, heard = new_window(), []

    def hear(answer: Any) -> None:
        if "json" in answer.headers.get("content-type", ""):
            heard.append(answer.text())

    window.on("response", hear)
    other = open_page(name + "-other", within=window)
    assert progress(other)[0] == 0
    other.wait_for_timeout(200)
    assert heard
    for text in heard:
        assert name + '"' not in text
        assert "tell-tale" not in text
    item = server.get_json(f"/api/item/{lr_slice}?reviewer={name}-other")
    assert item["mine"] is None


def test_the_same_reviewer_in_two_tabs_does_not_overwrite(open_page, server, name):
    one = open_page(name)
    two = open_page(name, within=one.context)
    assert canvas(one, "item") == canvas(two, "item")
    settle(one, "x")
    two.bring_to_front()
    two.keyboard.press("u")
    two.wait_for_function("() => document.querySelector('#status').textContent.trim() !== ''")
    assert [event.choice for event in of(server, name, 1)] == ["none"]


def test_a_decision_is_called_saved_only_when_it_is(copy_run, serving, open_page):
    with serving(copy_run()) as server:
        server.log_in()
        page = open_page("ann", at=server)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(timeout=10)
        page.keyboard.press("x")
        page.wait_for_function(
            "() => /not saved/i.test(document.querySelector('#status').textContent)"
        )
        page.wait_for_timeout(1500)
        assert not re.search(r"^saved", page.inner_text("#status"), re.IGNORECASE)
        assert server.events() == []
        # Leaving now would lose it: the browser asks.
        page.context.close()


def test_a_tab_left_open_does_not_decide_about_another_run(copy_run, serving, open_page, set_queue):
    # A tunnel keeps its port: yesterday's tab finds today's run behind the same address.
    with serving(copy_run()) as yesterday:
        yesterday.log_in()
        page = open_page("ann", at=yesterday)
        port = yesterday.port
    other = copy_run()
    set_queue(other, range(20, 40))
    with serving(other, "--port", str(port)) as today:
        today.log_in()
        page.context.add_cookies(today.cookies)
        page.keyboard.press("x")
        page.wait_for_function(
            "() => /not saved/i.test(document.querySelector('#status').textContent)"
        )
        page.wait_for_timeout(1500)
        assert today.events() == []


def test_keys_can_be_given_to_other_actions(open_page, server, name):
    page = open_page(name)
    page.evaluate("localStorage.setItem('srmri:keys', JSON.stringify({map: {unsure: 'q'}}))")
    page.reload()
    page.wait_for_selector("body[data-ready='1']")
    page.keyboard.press("u")
    settle(page, "q")
    assert [event.choice for event in of(server, name, 1)] == ["unsure"]


# The science of reviewing


@pytest.fixture(scope="module")
def mixed(copy_run, serving, set_queue):
    """A server with trials; a few items of its queue are clear."""
    run = copy_run()
    set_queue(run, range(24, 36))
    make_clear(run, (25, 33))
    with serving(run, "--catch", "0.3", "--repeat", "0.2", "--seed", "1") as server:
        server.log_in()
        yield server


def make_clear(run: Any, low_slices: tuple[int, ...]) -> None:
    """Let the voters differ by one slice at the place the geometry gives, and there only."""
    spacing = open_run(run).summary["hr"]["slice_spacing_um"]
    pairs = read_pairs(run)
    place = (pairs["auto_hr_position"] - pairs["auto_offset_um"] / spacing).round().astype(int)
    here = pairs["lr_slice"].isin(low_slices)
    pairs["vote_pca"] = place
    pairs["vote_ssim"] = place + here.map({True: 1, False: 9})
    write_pairs(run, pairs)


def test_trials_are_not_shown_as_such_and_tell_about_the_reviewer(mixed, open_page, name):
    page = open_page(name, at=mixed)
    total = progress(page)[1]
    assert total > 12
    seen = []
    for _ in range(total):
        assert page.locator("#goto-row").is_hidden()
        text = page.inner_text("body") + page.title()
        assert not re.search(r"\b(LR|HR)( slice)? \d", text), text
        seen.append(canvas(page, "item"))
        page.keyboard.press("r")
        page.wait_for_timeout(30)
        assert page.get_attribute("#strip", "data-revealed") == "0"
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "item => document.querySelector('#canvas').dataset.item !== item"
            " || !document.querySelector('#finished').hidden",
            arg=seen[-1],
        )
    assert len(set(seen)) == total
    events = of(mixed, name, total)
    assert sorted({event.trial for event in events}) == ["", "catch", "repeat"]
    assert {event.lr_slice for event in events if not event.trial} == set(range(24, 36))
    # Told at the end.
    page.wait_for_function("() => /^Saved/.test(document.querySelector('#status').textContent)")
    page.keyboard.press("r")
    page.wait_for_selector("#strip[data-revealed='1']")
    said = set()
    for _ in range(total):
        page.keyboard.press("k")
        page.wait_for_timeout(60)
        page.keyboard.press("r")
        page.wait_for_selector("#strip[data-revealed='1']")
        said.add(page.inner_text("#reason").split(",")[0])
    assert {"a catch trial", "a repeat"} <= said


def test_undo_reaches_back_over_trials(mixed, open_page, name):
    page = open_page(name, at=mixed)
    seen = []
    for _ in range(6):
        seen.append(canvas(page, "item"))
        settle(page, "u")
    for item in reversed(seen):
        page.keyboard.press("Control+z")
        shows(page, "item", item)
    assert progress(page)[0] == 0


def test_clear_items_are_accepted_together_with_one_event_each(mixed, open_page, name):
    page = open_page(name, at=mixed)
    total = progress(page)[1]
    page.wait_for_selector("#clear")
    assert page.inner_text("#clear span") == "Accept 2 clear"
    page.keyboard.press("a")
    assert page.locator("#clear-list li").count() == 2
    page.keyboard.press("Escape")
    assert of(mixed, name) == []
    page.click("#clear")
    page.click("#clear-accept")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '2'")
    events = of(mixed, name, 2)
    assert {event.lr_slice for event in events} == {25, 33}
    assert all((event.views, event.trial) == (("bulk",), "") for event in events)
    places = {row.lr_slice: row.vote_pca for row in read_pairs(mixed.run).itertuples()}
    assert all(event.choice == places[event.lr_slice] for event in events)
    assert page.locator("#clear").is_hidden()
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelector('#progress').dataset.done === '1'")
    assert progress(page) == (1, total)
    page.wait_for_selector("#clear")


def test_votes_are_revealed_after_the_decision(open_page, server, name):
    page = open_page(name)
    page.keyboard.press("r")
    page.wait_for_timeout(100)
    assert page.get_attribute("#strip", "data-revealed") == "0"
    assert page.locator("#scores path").count() == 0
    settle(page, "x")
    settle(page, "k")
    page.keyboard.press("r")
    page.wait_for_selector("#strip[data-revealed='1']")
    labels = page.inner_text("#strip")
    assert "PCA" in labels
    assert "geometry" in labels
    assert page.locator("#scores path").count() > 0


def test_disagreements_are_settled_on_the_page(copy_run, serving, open_page):
    run = copy_run()
    for reviewer, choice in (("ann", 60), ("bob", 62)):
        decide_at_terminal(run, f"30={choice}", reviewer=reviewer)
        decide_at_terminal(run, "31=62", reviewer=reviewer)
    with serving(run, "--adjudicate") as judged:
        judged.log_in()
        page = open_page("pi", at=judged)
        assert progress(page) == (0, 1)
        assert (canvas(page, "item"), page.inner_text("#mode")) == ("30", "Adjudication")
        page.click("#strip [data-hr='62']")
        page.keyboard.press("Enter")
        page.wait_for_selector("#finished")
        (*_, event) = of(judged, "pi", 1)
        assert (event.choice, event.adjudicates) == (62, True)
        page.keyboard.press("r")
        page.wait_for_selector("#strip[data-revealed='1']")
        assert "ann: HR 60 · bob: HR 62" in page.inner_text("#reason")
    assert next(v.reason for v in ReviewStore.open(run).merged()) == "the adjudicator chose 62"


# Looking


@pytest.fixture
def alike(reviewable, tmp_path_factory, serving, set_queue):
    """A server for a volume paired with itself: slice n of LR is slice n of HR."""
    from srmri_data.pairing import run_pairing
    from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
    from srmri_data.run_folder import open_run
    from srmri_data.slices import Trim

    scan = ScanRequest(open_run(reviewable).source_path("lr"))
    config = PairingConfig(method="paper", trim=Trim(0, "slices"), voters=("pca",))
    run = tmp_path_factory.mktemp("alike") / "run"
    run_pairing(plan_pairing(*find_scans(scan, scan), config), run)
    # Everything agrees; somebody has to look all the same.
    set_queue(run, range(28, 32))
    with serving(run) as server:
        server.log_in()
        yield server


def test_the_difference_of_equal_images_is_black(alike, open_page):
    page = open_page("ann", at=alike)
    lr = int(canvas(page, "item"))
    hr = int(canvas(page, "hr"))
    while hr != lr:
        page.keyboard.press("ArrowRight" if hr < lr else "ArrowLeft")
        hr += 1 if hr < lr else -1
        shows(page, "hr", hr)
    page.click("#view-buttons [data-view='difference']")
    if page.locator("#match").get_attribute("aria-pressed") == "true":
        page.click("#match")
    assert inside_image(page).max() == 0
    page.keyboard.press("ArrowRight")
    shows(page, "hr", lr + 1)
    assert inside_image(page).max() > 20


def inside_image(page: Any) -> np.ndarray:
    """Return the grey values in the middle of the canvas, where the image is."""
    page.wait_for_timeout(150)
    values = page.evaluate(
        """() => { const c = document.querySelector('#canvas');
        const w = c.width >> 2, h = c.height >> 2;
        return [...c.getContext('2d').getImageData(w, h, 2 * w, 2 * h).data]; }"""
    )
    return np.array(values).reshape(-1, 4)[:, :3]


def test_blink_shows_the_other_image_while_space_is_down(open_page, name):
    page = open_page(name)
    before = drawn(page)
    page.keyboard.down(" ")
    assert drawn(page) != before
    page.keyboard.up(" ")
    assert drawn(page) == before


def test_every_view_draws_something_of_its_own(open_page, name):
    page = open_page(name)
    seen = {}
    buttons = page.locator("#view-buttons [data-view]")
    views = [buttons.nth(n).get_attribute("data-view") for n in range(buttons.count())]
    assert set(views) >= {
        "blink", "swipe", "checker", "difference", "edges", "opacity", "side",
    }  # fmt: skip
    for view in views:
        if view in ("blink", "single", "native"):
            continue
        page.click(f"#view-buttons [data-view='{view}']")
        assert canvas(page, "view") == view
        assert page.get_attribute(f"#view-buttons [data-view='{view}']", "aria-pressed") == "true"
        page.wait_for_timeout(100)
        seen[view], peak = drawn(page)
        assert peak > 30, view
    assert len(set(seen.values())) == len(seen), seen


def test_views_used_are_recorded(open_page, server, name):
    page = open_page(name)
    page.click("#view-buttons [data-view='checker']")
    page.click("#view-buttons [data-view='difference']")
    settle(page, "x")
    (event,) = of(server, name, 1)
    assert {"checker", "difference"} <= set(event.views)


def test_arrows_step_through_high_res_slices(open_page, name):
    page = open_page(name)
    start, before = int(canvas(page, "hr")), drawn(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "n => Number(document.querySelector('#canvas').dataset.hr) !== n", arg=start
    )
    assert abs(int(canvas(page, "hr")) - start) == 1
    assert drawn(page) != before
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "n => Number(document.querySelector('#canvas').dataset.hr) === n", arg=start
    )
    assert drawn(page) == before


def test_matched_resolution_blurs(open_page, name):
    page = open_page(name)
    was, before = canvas(page, "match"), drawn(page)
    page.click("#match")
    page.wait_for_function(
        "was => document.querySelector('#canvas').dataset.match !== was", arg=was
    )
    page.wait_for_timeout(200)
    page.keyboard.down(" ")
    page.keyboard.up(" ")
    changed = drawn(page)
    page.click("#match")
    page.wait_for_timeout(200)
    assert drawn(page) == before
    # Either LR or HR is in front; matching concerns HR only.
    if changed == before:
        page.keyboard.down(" ")
        front = drawn(page)
        page.keyboard.up(" ")
        page.click("#match")
        page.wait_for_timeout(200)
        page.keyboard.down(" ")
        assert drawn(page) != front
        page.keyboard.up(" ")


def test_window_and_level(open_page, name):
    page = open_page(name)
    before = drawn(page)
    slider = page.locator("#wl-high")
    value = float(slider.input_value())
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert float(slider.input_value()) != value
    assert drawn(page) != before
    # The arrows moved the slider, not the slice.
    page.locator("#wl-high").blur()


def test_zoom_and_pan(open_page, name):
    page = open_page(name)
    before = drawn(page)
    box = page.locator("#canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    zoomed = drawn(page)
    assert zoomed != before
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 30, steps=4)
    page.mouse.up()
    assert drawn(page) not in (zoomed, before)
    page.keyboard.press("0")
    assert drawn(page) == before
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert drawn(page) != before
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert drawn(page) == before


def test_auto_blink_is_slow_and_off_for_those_who_ask(open_page, name):
    watch = """() => new Promise(done => {
      const canvas = document.querySelector('#canvas'), context = canvas.getContext('2d');
      const [w, h] = [canvas.width, canvas.height], start = performance.now(), flips = [];
      let last = null;
      const look = () => {
        const data = context.getImageData(w / 2, h / 2, 32, 32).data.join();
        if (last !== null && data !== last) flips.push(performance.now() - start);
        last = data;
        performance.now() - start < 1800 ? requestAnimationFrame(look) : done(flips);
      };
      look();
    })"""
    flips = {}
    for motion in ("no-preference", "reduce"):
        page = open_page(f"{name}-{motion}", reduced_motion=motion)
        page.click("#view-buttons [data-view='blink']")
        flips[motion] = page.evaluate(watch)
    assert flips["reduce"] == []
    assert len(flips["no-preference"]) >= 2
    # 3 Hz: no image is shown for less than a sixth of a second (and a frame).
    assert min(np.diff(flips["no-preference"])) > 1000 / 6 - 25


# Typing


def test_typing_changes_nothing_but_the_note(open_page, server, name):
    page = open_page(name)
    state = [canvas(page, part) for part in ("view", "hr", "item", "match")]
    pixels = drawn(page)
    page.click("#note")
    page.keyboard.type("gds 123 xu jk ? +-0 r")
    page.keyboard.press("ArrowLeft")
    assert [canvas(page, part) for part in ("view", "hr", "item", "match")] == state
    assert drawn(page) == pixels
    assert page.input_value("#note") == "gds 123 xu jk ? +-0 r"
    assert of(server, name) == []
    assert not page.locator("#help").is_visible()


def test_help_lists_the_keys(open_page, name):
    page = open_page(name)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert re.search(r"undo", page.inner_text("#help"), re.IGNORECASE)
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


# Everyone


def test_status_is_announced_and_focus_is_visible(open_page, name):
    page = open_page(name)
    assert page.get_attribute("#status", "aria-live") == "polite"
    settle(page, "x")
    page.wait_for_function("() => document.querySelector('#status').textContent.trim() !== ''")
    invisible, reached = [], set()
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const e = document.activeElement;
            if (!e || e === document.body) return null;
            const s = getComputedStyle(e);
            const ring = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
            return [e.id || e.outerHTML.slice(0, 80), ring || s.boxShadow !== 'none']; }"""
        )
        if found is None:
            continue
        reached.add(found[0])
        if not found[1]:
            invisible.append(found[0])
    assert {"accept", "none", "unsure", "note"} <= reached
    assert invisible == []


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1600, "dark"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(390, "dark"), (800, "light"), (800, "dark"), (1600, "light")]
        ),
    ],
)
def test_it_fits_is_readable_and_accessible(open_page, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is injected as a script, which the page's own policy forbids.
    page = open_page(
        name, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#canvas").bounding_box()["width"] >= 0.4 * width
    settle(page, "x")
    assert drawn(page)[1] > 30
    serious(axe.run(page))
    page.keyboard.press("?")
    serious(axe.run(page))


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (900, "light")])
def test_trials_and_clear_items_fit_and_are_accessible(mixed, open_page, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(
        f"{name} with a longer name", at=mixed, viewport={"width": width, "height": 900},
        color_scheme=scheme, bypass_csp=True,
    )  # fmt: skip
    page.click("#clear")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    serious(axe.run(page))


def serious(results: Any) -> None:
    found = [
        (violation["id"], [node["html"][:120] for node in violation["nodes"]][:3])
        for violation in results.response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert found == []


def test_axe_would_find_something(browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page()
    page.set_content("<html><body><img src='data:,'><input><p style='color:#ccc'>pale</p>")
    with pytest.raises(AssertionError):
        serious(axe.run(page))
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_differ(open_page, name, scheme):
    page = open_page(name, color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
    assert (brightness > 128) == (scheme == "light")
