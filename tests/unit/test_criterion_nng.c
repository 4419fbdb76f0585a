/*
 * The test runner keeps its own messaging library though tests are linked with nng.
 */
#include <criterion/criterion.h>

#include <dlfcn.h>

#include <nng/nng.h>

/* nn_socket, which criterion's runner calls, is libnanomsg's and not the one that libnng exports. */
Test(criterion_nng, runner_has_its_own_library)
{
    Dl_info info;
    void *nn_socket = dlsym(RTLD_DEFAULT, "nn_socket");
    cr_assert_not_null((void *)nng_version());
    cr_assert_not_null(nn_socket);
    cr_assert_neq(dladdr(nn_socket, &info), 0);
    cr_assert_not_null(strstr(info.dli_fname, "libnanomsg"), "%s", info.dli_fname);
}
