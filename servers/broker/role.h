/*
 * broker/role.h: a broker as a role of a node.
 */
#ifndef BROKER_ROLE_H
#define BROKER_ROLE_H

#include "common/node.h"

extern const struct srv_role broker_role;

#endif /* BROKER_ROLE_H */
