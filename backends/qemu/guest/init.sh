#!/bin/busybox sh
# Process 1 of the guest. The kernel command line decides what runs:
#   colosim.services=NAME,...   of those in /svc
#   colosim.ground=KEY=VALUE,...
/bin/busybox mkdir -p /bin /proc /sys /dev /run /tmp /var/tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
exec </dev/console >/dev/console 2>&1

for module in $(cat /modules/order); do
	insmod "/modules/$module" || echo "colosim: module $module does not load"
done

hostname guest
echo 1 >/proc/sys/vm/overcommit_memory
ifconfig lo 127.0.0.1 up
if [ -e /sys/class/net/eth0 ]; then
	ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up
	route add default gw 10.0.0.1
fi

failed=
# The replicated disk, by its serial number.
for disk in /sys/block/vd*; do
	[ "$(cat "$disk/serial" 2>/dev/null)" = colosim ] || continue
	mkdir /disk
	if ! mount -t ext4 "/dev/${disk##*/}" /disk; then
		rmdir /disk
		echo "colosim: the disk ${disk##*/} is no ext4"
		failed=1
	fi
done

services=
export GROUND=
for word in $(cat /proc/cmdline); do
	case "$word" in
	colosim.services=*) services=${word#*=} ;;
	colosim.ground=*) GROUND=${word#*=} ;;
	esac
done

# /svc/NAME runs in the foreground; its second line is "# PORT".
ready=
for name in $(echo "$services" | tr , ' '); do
	if [ ! -x "/svc/$name" ]; then
		echo "colosim: failed $name: it is not in this image, which has: $(ls /svc | tr '\n' ' ')"
		failed=1
		continue
	fi
	("/svc/$name"; echo "colosim: ended $name status $?"; : >"/run/$name.ended") </dev/null &
	ready="$ready $name"
done

# A service is ready when its port is open. Awake only as often as needed: an idle guest is idle.
for name in $ready; do
	port=$(printf %04X "$(sed -n '2s/# //p' "/svc/$name")")
	turns=0
	while ! grep -q ": 00000000:$port 00000000:0000 0A" /proc/net/tcp; do
		turns=$((turns + 1))
		why=
		[ "$turns" != 1200 ] || why="no port after 60 s"
		[ ! -e "/run/$name.ended" ] || why="it ended"
		if [ -n "$why" ]; then
			echo "colosim: failed $name: $why"
			failed=1
			break
		fi
		sleep 0.05
	done
done
if [ -n "$failed" ]; then
	echo "colosim: not ready"
else
	echo "colosim: ready$ready"
fi
while :; do
	wait
	sleep 1000000
done
