"""What ends the restrictions of a trial. Apart from the rest of trials, because plans and credit need it."""

from engine.storage.postgres import Connection, count_change


async def lift_trial(connection: Connection, payer: str, by: str) -> bool:
    """Whoever has paid, or was given money of one's own, is not held to a trial's numbers any more.

    What is left of the trial's credit stays until the trial would have ended. False: there was no trial to lift.
    """
    kind, _, user_id = payer.partition(":")
    if kind != "user":
        return False
    n = await count_change(connection)
    lifted = await connection.execute(
        "UPDATE trials SET lifted_at = now(), lifted_by = %s WHERE user_id = %s AND lifted_at IS NULL",
        (by, user_id),
    )
    if lifted.rowcount:
        await connection.execute("UPDATE users SET changed_n = %s WHERE id = %s", (n, user_id))
    return bool(lifted.rowcount)
