"""Keep what the fleet is to be and what it is: in memory, in SQLite or in etcd."""
