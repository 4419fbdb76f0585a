/*
 * qmq-broker.c: role broker alone.
 */
#include "broker/role.h"

int
main(int argc, char **argv)
{
    static const struct srv_role *const roles[] = { &broker_role };
    static const struct srv_program program = {
        .name = "qmq-broker",
        .what = "stores messages and hands them out; registers at a meta",
        .roles = roles,
        .role_count = 1,
    };
    return srv_node_main(&program, argc, argv);
}
