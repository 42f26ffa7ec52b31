"""A PostgreSQL and a broker that need nothing but pip (and, where Java is at hand, a real Apache Kafka).

For laptops, the demo and the tests: the same wire protocols as production, on loopback, in child processes that stop
with whoever started them.
"""
