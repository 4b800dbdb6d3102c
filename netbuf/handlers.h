/* handlers: what an output buffer, of either kind, tells its owner. */
#ifndef HIKAE_NETBUF_HANDLERS_H
#define HIKAE_NETBUF_HANDLERS_H

struct netbuf_handlers {
    void (*held)(void *arg);   /* the running epoch got a frame */
    void (*full)(void *arg);   /* no room, or soon none: something must be released */
    void (*learnt)(void *arg); /* a new address of the guest */
    /* The VM closed the socket, or the interface is gone; once. The buffer must not be closed in here. */
    void (*lost)(const char *why, void *arg);
};

#endif
