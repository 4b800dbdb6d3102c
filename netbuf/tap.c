#include "netbuf/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

void tap_bridge(const char *name, char bridge[16])
{
    struct nl_sock *nl = nl_socket_alloc();
    struct rtnl_link *link = NULL;
    bridge[0] = '\0';
    if (nl && nl_connect(nl, NETLINK_ROUTE) == 0 && rtnl_link_get_kernel(nl, 0, name, &link) == 0 &&
        !if_indextoname((unsigned)rtnl_link_get_master(link), bridge))
        bridge[0] = '\0';
    if (link)
        rtnl_link_put(link);
    if (nl)
        nl_socket_free(nl);
}

static int join_bridge(int control, const char *name, const char *bridge, struct errmsg *e)
{
    struct ifreq r = {.ifr_ifindex = (int)if_nametoindex(name)};
    strncpy(r.ifr_name, bridge, IFNAMSIZ - 1);
    if (!if_nametoindex(bridge))
        return errmsg_set(
            e,
            "there is no bridge '%s' on this host: make it (ip link add %s type bridge) or name another one "
            "with bridge = in the VM's section",
            bridge, bridge);
    if (ioctl(control, SIOCBRADDIF, &r) && errno != EBUSY) /* EBUSY: it is a port already */
        return errmsg_set(e, "can't add the VM's tap to bridge '%s': %s%s", bridge, strerror(errno),
                          errno == EOPNOTSUPP ? " (is it a bridge?)" : "");
    return 0;
}

static int bring_up(int control, const char *name, struct errmsg *e)
{
    struct ifreq r = {0};
    strncpy(r.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(control, SIOCGIFFLAGS, &r))
        return errmsg_set(e, "%s: %s", name, strerror(errno));
    r.ifr_flags = (short)(r.ifr_flags | IFF_UP);
    if (ioctl(control, SIOCSIFFLAGS, &r))
        return errmsg_set(e, "can't bring %s up: %s", name, strerror(errno));
    return 0;
}

int tap_connect(const char *name, const char *bridge, struct errmsg *e)
{
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0)
        return errmsg_set(e, "socket: %s", strerror(errno));
    int result = *bridge ? join_bridge(control, name, bridge, e) : 0;
    if (!result)
        result = bring_up(control, name, e);
    close(control);
    return result;
}

static int create(short flags, char name[16], struct errmsg *e)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errmsg_set(e, "/dev/net/tun: %s (load the module: modprobe tun)", strerror(errno));
    struct ifreq r = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags)};
    strncpy(r.ifr_name, "hikae%d", IFNAMSIZ - 1);
    if (ioctl(fd, TUNSETIFF, &r)) {
        errmsg_set(e, "can't make a tap interface: %s (it needs CAP_NET_ADMIN)", strerror(errno));
        close(fd);
        return -1;
    }
    memcpy(name, r.ifr_name, 16);
    return fd;
}

int tap_open(const char *bridge, char name[16], struct errmsg *e)
{
    int fd = create(0, name, e);
    if (fd >= 0 && tap_connect(name, bridge, e)) {
        close(fd);
        return -1;
    }
    return fd;
}

int tap_create(char name[16], struct errmsg *e)
{
    return create(IFF_VNET_HDR, name, e);
}

void tap_name(int fd, char name[16])
{
    struct ifreq r = {0};
    strcpy(name, "?");
    if (!ioctl(fd, TUNGETIFF, &r))
        memcpy(name, r.ifr_name, 16);
}
