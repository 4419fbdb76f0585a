/*
 * meta/role.h: meta as a role of a node.
 */
#ifndef META_ROLE_H
#define META_ROLE_H

#include "common/node.h"

extern const struct srv_role meta_role;

#endif /* META_ROLE_H */
