/*
 * delay/role.h: the delay store as a role of a node.
 */
#ifndef DELAY_ROLE_H
#define DELAY_ROLE_H

#include "common/node.h"

extern const struct srv_role delay_role;

#endif /* DELAY_ROLE_H */
