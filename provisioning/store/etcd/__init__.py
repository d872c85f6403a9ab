"""Keep a fleet in etcd, for several provisioners on several machines."""
