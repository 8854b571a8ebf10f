"""Champion to traffic to interactions: the gateway, who may call it, routes, rollouts and the record of both."""
