//! A real cluster and simulated pods for Picket's tests and its demo.
