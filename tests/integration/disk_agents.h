/*
 * disk_agents: for the tests of both agents with a disk server on each side: the hosts' stores and a guest made of
 * qemu-io.
 */
#ifndef HIKAE_TESTS_DISK_AGENTS_H
#define HIKAE_TESTS_DISK_AGENTS_H

#include "tests/integration/agents_command.h"

enum { BLOCK = 4096 };

/* Lines of [vm web] by which it has the disks 0.img and 1.img of the host's folder. */
#define WITH_DISKS "pages = 24\nrate = 200\ndisk = @DIR/0.img @DIR/1.img\n"

/* Both, of so many blocks, all holes. */
void disks_make(const struct host *h, unsigned blocks_0, unsigned blocks_1);
/* Behind the disk server's back. What a block holds is made of `seed`. */
void disk_put(const struct host *h, const char *name, unsigned block, unsigned seed);
bool disk_equal(const struct agents *t, const char *name, unsigned block);
/* All of both disks, octet by octet. */
bool disks_equal(const struct agents *t);

/* As the guest: commands of qemu-io to disk 0 of the VM that runs on `h`, separated by ';'. */
void guest_does(const struct host *h, const char *commands);

#endif
