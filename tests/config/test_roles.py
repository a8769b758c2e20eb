"""What a role may: from its file, by its words, against other roles."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config.roles import Roles
from engine.config.schema_role import RoleFile
from tests.config.conftest import Folder


def test_the_shipped_roles_have_the_permissions_of_the_table(folder: Folder) -> None:
    roles = folder.load({}).roles
    own_keys = {f"api_keys:{action}" for action in ("create", "read", "update", "delete", "list")}
    coupons = {f"coupons:{action}" for action in ("redeem", "list_available", "view_history")}
    user = roles.find("user").permissions
    assert own_keys | coupons | {"profile:read", "profile:update", "usage:read"} <= user
    assert roles.find("developer").permissions == user | {"analytics:read"}
    assert roles.find("admin").permissions == {"*"}
    assert [roles.find(name).level for name in ("user", "developer", "admin")] == [1, 2, 3]
    assert roles.administrators == {"admin"}


def test_a_role_of_ones_own_adds_to_what_it_extends_and_can_take_away(folder: Folder) -> None:
    text = "role: auditor\nextends: user\npermissions: {audit_logs: read, coupons: null}\n"
    auditor = folder.load({"policies.d/auditor.yaml": text}).roles.find("auditor")
    assert auditor.allows("audit_logs:read") and auditor.allows("api_keys:list")
    assert not auditor.allows("coupons:redeem") and not auditor.allows("users:list")


def test_roles_stay_without_the_shipped_files(folder: Folder) -> None:
    snapshot = folder.load({"gateway.yaml": "include: {builtin: false}\n"})
    assert snapshot.roles.allows("admin", "anything:at_all") and "user" in snapshot.roles


@pytest.mark.parametrize(
    "line",
    [
        "permissions: all",
        "permissions: {Users: [read]}",
        'permissions: {users: ["read it"]}',
        'permissions: {"users:read": [a]}',
        "level: -1",
        "level: high",
        "may: [read]",
    ],
)
def test_a_file_that_is_no_role_is_refused_by_line(folder: Folder, line: str) -> None:
    problems = folder.refuse({"policies.d/r.yaml": f"role: r\n{line}\n"})
    assert problems and problems[0].startswith("policies.d/r.yaml:2:")


def make(**files: dict[str, object]) -> Roles:
    return Roles({name: RoleFile.model_validate({"role": name, **file}) for name, file in files.items()})


def test_a_role_that_no_file_declares_may_nothing_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    roles = make(user={"permissions": {"usage": ["read"]}})
    with caplog.at_level(logging.WARNING):
        assert not roles.allows("ghost", "usage:read") and not roles.allows("ghost", "*")
        assert roles.covers("user", "ghost") and not roles.covers("ghost", "user")
    assert len(caplog.records) == 1 and "ghost" in caplog.text


def test_everything_of_one_resource_is_not_everything() -> None:
    roles = make(desk={"permissions": {"users": ["*"]}}, all={"permissions": {"*": ["*"]}})
    assert roles.allows("desk", "users:delete") and not roles.allows("desk", "users_x:delete")
    assert not roles.allows("desk", "*") and not roles.allows("all", "users:read")


def test_a_higher_level_or_one_permission_more_is_above() -> None:
    roles = make(
        low={"level": 1, "permissions": {"a": ["read"]}},
        more={"level": 1, "permissions": {"a": ["read", "list"]}},
        high={"level": 2, "permissions": {"a": ["read"]}},
    )
    assert roles.list_above("low") == ["more", "high"]
    assert roles.covers("more", "low") and not roles.covers("more", "high")


permissions = st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from(["x", "y", "*"]), max_size=3))
role_files = st.fixed_dictionaries(
    {"level": st.integers(0, 3), "permissions": st.one_of(permissions, st.just("*"))}
)


@given(role_files, role_files)
def test_who_covers_a_role_may_all_that_it_may(one: dict[str, object], other: dict[str, object]) -> None:
    roles = make(one=one, other=other)
    words = [f"{thing}:{action}" for thing in "abc" for action in "xyz"] + ["*"]
    if roles.covers("one", "other"):
        assert all(roles.allows("one", word) for word in words if roles.allows("other", word))
    lesser = roles.lesser("one", "other")
    assert lesser in ("one", "other") and roles.lesser("one", "") == "one"
