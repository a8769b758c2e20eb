"""policies.d/anonymous.yaml: what may be asked without any key. As shipped nothing."""

from engine.config.schema_base import Count, Name, Strict, described


class AnonymousFile(Strict):
    """Calls without a key. The one named `default` is in force."""

    anonymous: Name = described("its name; `default` is the one in force")
    extends: Name | None = described("one whose keys these go over", None)
    enabled: bool = described("whether inference without a key is answered at all", False)
    models: tuple[str, ...] = described(
        "globs of the models; of these only those whose price is zero", ("*",)
    )
    per_day: Count = described("calls in any 24 hours from one address, of IPv6 from one /64", 3)
    max_tokens: Count = described("longest answer; a request for more gets so much", 1024)
