"""SQLAlchemy's ORM over psycopg 3, Alembic."""

import sqlalchemy as sa

from sqlalchemy_steps import Program
from steps import URL, walk

ADDRESS = URL.replace("postgres://", "postgresql+psycopg://")
program = Program(sa.create_engine(ADDRESS, pool_size=10), sa.create_engine(ADDRESS, use_insertmanyvalues=False))
walk(program.steps(), program.recover)
