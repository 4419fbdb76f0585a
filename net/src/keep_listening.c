/*
 * keep_listening.c: keep a stranger from closing our door.
 *
 * A stranger that connects, ends its side and resets the connection before it was accepted makes
 * nng's first write to it fail with EPIPE. nng 1.5.2 takes this for the end of the listening socket
 * and never accepts again (issue 1518, mended in 1.6); any port scan may do that. ECONNRESET, which
 * says the same of a connection, it takes for what it is. So a server that is compiled with this
 * file tells nng the one instead of the other.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t sent = syscall(SYS_sendmsg, fd, message, flags);
    if (sent < 0 && errno == EPIPE) errno = ECONNRESET;
    return sent;
}
