"""`launcher.kubernetes.command`: what `launcher k8s render` takes, and what it refuses."""

from __future__ import annotations

import pytest

from launcher.cli import main

GIVEN = ("--name=train", "--image=train:1")


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run the command; return exit status, stdout and stderr."""
    status = main(["k8s", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_manifest_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As many pods as nodes at most; what is launched is handed over as it is."""
    status, out, err = shown(
        capsys, "render", *GIVEN, "--", "--nnodes", "2:3", "train.py", "--", "--name", "x"
    )
    tail = out.partition("args:\n")[2]

    assert (status, err) == (0, "")
    assert "completions: 3\n" in out
    assert tail.lstrip().startswith('- "--nnodes"\n        - "2:3"\n        - train.py\n')
    assert '- "--"\n        - "--name"\n        - x\n' in tail


def test_options_reach_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them."""
    options = ("--jobset", "--grace=120", "--retries=0", "--secret=s.1", "--namespace=1ml")
    _, out, _ = shown(capsys, "render", *GIVEN, *options, "--", "a.py")

    for line in (
        "kind: JobSet",
        "terminationGracePeriodSeconds: 120",
        "maxRestarts: 0",
        "secretName: s.1",
        'namespace: "1ml"',
    ):
        assert line in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "k8s: expected k8s render"),
        (["apply"], "k8s apply: expected k8s render"),
        (["render"], "k8s render: the following arguments are required: --name, --image"),
        (["render", *GIVEN], "k8s render: expected -- and what to launch"),
        (["render", *GIVEN, "--"], "k8s render: expected -- and what to launch"),
        (["render", *GIVEN, "a.py"], "k8s render: unrecognized arguments: a.py"),
        (["render", *GIVEN, "--bogus", "--", "a.py"], "k8s render: unrecognized arguments"),
        (["render", *GIVEN, "--", "--nnodes=0", "a.py"], "--nnodes=0: expected N or MIN:MAX"),
        (["render", *GIVEN, "--", "--bogus", "a.py"], "unrecognized arguments: --bogus"),
        (["render", *GIVEN, "--", "--hosts=a,b", "a.py"], "--hosts=a,b: expected without"),
        (["render", *GIVEN, "--", "--standalone", "a.py"], "--standalone: expected without k8s"),
        (["render", *GIVEN, "--", "--node-rank=0", "a.py"], "--node-rank: expected without k8s"),
        (["render", *GIVEN, "--", "--local-addr=a", "a.py"], "--local-addr: expected without"),
        (["render", *GIVEN, "--", "--nnodes=2"], "script: expected the path of a script"),
        (["render", *GIVEN, "--", "--nnodes=100001", "a.py"], "--nnodes=100001: expected at most"),
        (["render", "--image=a", "--name=", "--", "a.py"], "--name=: expected lower-case"),
        (["render", "--image=a", "--name=Train", "--", "a.py"], "--name=Train: expected lower"),
        (["render", "--image=a", "--name=1a", "--", "a.py"], "--name=1a: expected lower-case"),
        (["render", "--image=a", "--name=a-", "--", "a.py"], "--name=a-: expected lower-case"),
        (["render", "--image=a", f"--name={'a' * 60}", "--", "a.py"], "at most 54 characters"),
        (["render", "--name=a", "--image=", "--", "a.py"], "--image=: expected the name of an"),
        (["render", "--name=a", "--image=a b", "--", "a.py"], "--image=a b: expected the name"),
        (["render", *GIVEN, "--grace=5", "--", "a.py"], "--grace=5: expected an integer, at least"),
        (["render", *GIVEN, "--grace=x", "--", "a.py"], "--grace=x: expected an integer, at least"),
        (
            ["render", *GIVEN, "--grace=20", "--", "--preempt-notice=60", "a.py"],
            "--preempt-notice=60: expected at most --grace=20",
        ),
        (["render", *GIVEN, "--retries=-1", "--", "a.py"], "--retries=-1: expected an integer"),
        (["render", *GIVEN, "--secret=A", "--", "a.py"], "--secret=A: expected lower-case"),
        (["render", *GIVEN, "--namespace=a.b", "--", "a.py"], "--namespace=a.b: expected lower"),
        (["render", *GIVEN, "--", "\udcff.py"], "'\\udcff.py': expected text in UTF-8"),
    ],
)
def test_bad_input_is_a_usage_error(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the argument, and nothing on stdout that could be applied."""
    status, out, err = shown(capsys, *argv)

    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("launcher: ")


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """In front of the command and after it."""
    for argv in (["k8s", "--help"], ["k8s", "render", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)

        assert caught.value.code == 0
        assert "--image IMAGE" in capsys.readouterr().out
