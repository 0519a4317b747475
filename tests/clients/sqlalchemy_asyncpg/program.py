"""SQLAlchemy's ORM over asyncpg, Alembic.

The steps are written once, for the synchronous API; they run in SQLAlchemy's greenlets, as `AsyncSession.run_sync`
does it, so every statement goes through its asyncpg dialect.
"""

import asyncio
import functools

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from sqlalchemy_steps import Program
from steps import URL, otherwise, walk_async


class Async(Program):
    """With tasks instead of threads."""

    def settle(self):
        sa.util.await_only(asyncio.sleep(0.3))

    def eight(self, session):
        async def all_of_them():
            return await asyncio.gather(*[greenlet_spawn(session, number) for number in range(8)])

        return sa.util.await_only(all_of_them())


async def main():
    address = URL.replace("postgres://", "postgresql+asyncpg://")
    engine = create_async_engine(address, pool_size=10)
    row_by_row = create_async_engine(address, use_insertmanyvalues=False)
    program = Async(engine.sync_engine, row_by_row.sync_engine)

    def spawned(function):
        step = functools.partial(greenlet_spawn, function)
        if hasattr(function, "otherwise"):
            return otherwise(step, functools.partial(greenlet_spawn, function.otherwise))
        return step

    async def recover(_is_stuck):
        await engine.dispose(close=False)

    await walk_async([(name, spawned(function), *needs) for name, function, *needs in program.steps()], recover)


asyncio.run(main())
