/*
 * common/ready_file.h: a file that is there while the node is ready, for scripts.
 *
 * A line `ROLE URL` for each role. It appears whole, and is removed when the node stops; after
 * kill -9 the next start removes it first. A NULL path: none is wanted.
 */
#ifndef SRV_COMMON_READY_FILE_H
#define SRV_COMMON_READY_FILE_H

#include <qbase/err.h>

Q_MUST_CHECK enum q_err srv_ready_file_clear(const char *path);
Q_MUST_CHECK enum q_err srv_ready_file_write(const char *path, const char *text);
void srv_ready_file_remove(const char *path);

#endif /* SRV_COMMON_READY_FILE_H */
