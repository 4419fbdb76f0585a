/*
 * qmqd.c: any set of roles in one process.
 */
#include "broker/role.h"
#include "delay/role.h"
#include "meta/role.h"

int
main(int argc, char **argv)
{
    /* In the order of their start: a broker registers at the meta beside it. */
    static const struct srv_role *const roles[] = { &meta_role, &broker_role, &delay_role };
    static const struct srv_program program = {
        .name = "qmqd",
        .what = "a message queue server: any set of roles in one process",
        .roles = roles,
        .role_count = sizeof(roles) / sizeof(roles[0]),
    };
    return srv_node_main(&program, argc, argv);
}
