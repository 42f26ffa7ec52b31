"""The world of the stories."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.world import World


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    return await World(engine).start()
