/*
 * qmq-delay.c: role delay alone.
 */
#include "delay/role.h"

int
main(int argc, char **argv)
{
    static const struct srv_role *const roles[] = { &delay_role };
    static const struct srv_program program = {
        .name = "qmq-delay",
        .what = "keeps messages until they are due; registers at a meta",
        .roles = roles,
        .role_count = 1,
    };
    return srv_node_main(&program, argc, argv);
}
