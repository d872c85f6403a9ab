"""Put load on a fleet as its developers do, and judge what they see."""
