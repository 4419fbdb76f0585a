/*
 * test_net_pools.c: how many threads nng starts. This executable has net's small_pools.c compiled
 * in, as servers and tools have.
 */
#include "test_net_common.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>

static int
count_threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    cr_assert_not_null(tasks);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        count += task->d_name[0] != '.' ? 1 : 0;
    }
    closedir(tasks);
    return count;
}

static void *
tell_id(void *context)
{
    *(pid_t *)context = gettid();
    return NULL;
}

/* A tool that watches threads starts one of its own with the first. The kernel lists a thread for a
 * moment after it was joined. */
static void
start_one_thread(void)
{
    pthread_t thread;
    pid_t id;
    cr_assert_eq(pthread_create(&thread, NULL, tell_id, &id), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    while (tgkill(getpid(), id, 0) == 0)
        (void)sched_yield();
}

static int
count_processors(void)
{
    cpu_set_t set;
    cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    return CPU_COUNT(&set);
}

/* nng's threads are 7 and 3 for each processor it believes in: on a small machine that is one. A
 * server works, whatever their number. */
Test(net_pools, small)
{
    start_one_thread();
    int before = count_threads();
    struct net_server net;
    net_server_start(&net, "tcp://127.0.0.1:0", NULL);
    int threads = count_threads() - before;
    int processors = count_processors();
    if (processors <= 4) {
        cr_assert_eq(sysconf(_SC_NPROCESSORS_ONLN), 1);
        cr_assert_eq(threads, 7 + 3 * 1, "%d threads", threads);
    } else {
        cr_assert_gt(sysconf(_SC_NPROCESSORS_ONLN), 1);
    }

    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    net_check_echo(caller, "works");
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* All other questions to sysconf() are answered by the C library. */
Test(net_pools, other_questions)
{
    cr_assert_eq(sysconf(_SC_PAGESIZE), getpagesize());
    cr_assert_gt(sysconf(_SC_OPEN_MAX), 0);
    cr_assert_gt(sysconf(_SC_PHYS_PAGES), 0);
    cr_assert_geq(sysconf(_SC_NPROCESSORS_CONF), count_processors());
    cr_assert_eq(sysconf(-12345), -1);
}
