/*
 * qmq-meta.c: role meta alone.
 */
#include "meta/role.h"

int
main(int argc, char **argv)
{
    static const struct srv_role *const roles[] = { &meta_role };
    static const struct srv_program program = {
        .name = "qmq-meta",
        .what = "knows the nodes of a cluster and which of them serves what",
        .roles = roles,
        .role_count = 1,
    };
    return srv_node_main(&program, argc, argv);
}
