//! The laboratory's kernel programs (`lb-ebpf/src/lab.rs`): loaded, attached to wires' ends, counters read.

use anyhow::Context;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::namespace::Namespace;

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-lab.o"));

/// Loaded programs; what is attached stays so as long as this lives.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Loads the object with its defaults.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load() -> anyhow::Result<Self> {
        Self::with_flows(1)
    }

    /// Loads the object; generated datagrams belong to so many flows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn with_flows(flows: u32) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        let ebpf = loader.btf(None).override_global("FLOWS", &flows, true).load(OBJECT);
        Ok(Self { ebpf: ebpf.context("loading the laboratory's kernel object")? })
    }

    /// A loaded program.
    ///
    /// # Errors
    /// The object has none of this name and kind, or the kernel refuses it.
    pub fn xdp(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        let program: &mut Xdp = self.program(name)?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// Attaches an XDP program to an interface of a namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_xdp(&mut self, name: &str, namespace: &Namespace, interface: &str) -> anyhow::Result<()> {
        let program = self.xdp(name)?;
        namespace
            .run(|| program.attach(interface, XdpMode::Driver))
            .with_context(|| format!("{name} on {interface}"))?;
        Ok(())
    }

    /// Attaches a program to what leaves an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_egress(
        &mut self,
        name: &str,
        namespace: &Namespace,
        interface: &str,
    ) -> anyhow::Result<()> {
        self.attach_classifier(name, namespace, interface, TcAttachType::Egress)
    }

    /// Attaches a program to what enters an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_ingress(
        &mut self,
        name: &str,
        namespace: &Namespace,
        interface: &str,
    ) -> anyhow::Result<()> {
        self.attach_classifier(name, namespace, interface, TcAttachType::Ingress)
    }

    fn attach_classifier(
        &mut self,
        name: &str,
        namespace: &Namespace,
        interface: &str,
        way: TcAttachType,
    ) -> anyhow::Result<()> {
        let program: &mut SchedClassifier = self.program(name)?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        namespace.run(|| program.attach(interface, way)).with_context(|| format!("{name} on {interface}"))?;
        Ok(())
    }

    /// What the generators send: of the frame its first 58 bytes, all that may be rewritten on its way.
    ///
    /// # Errors
    /// When the frame is shorter.
    pub fn set_template(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        let template: [u8; 58] = frame.get(..58).context("the frame is too short")?.try_into()?;
        let map = self.ebpf.map_mut("TEMPLATE").context("the laboratory has no template")?;
        let mut array: Array<_, [u8; 58]> = map.try_into()?;
        Ok(array.set(0, template, 0)?)
    }

    /// A counter, summed over all CPUs.
    ///
    /// # Panics
    /// When the object has no such counter.
    pub fn count(&self, name: &str) -> u64 {
        let map = self.ebpf.map(name).unwrap_or_else(|| panic!("the laboratory has no counter {name}"));
        let counter: PerCpuArray<&MapData, u64> = map.try_into().expect("counters are arrays of u64");
        counter.get(&0, 0).expect("an array has its first entry").iter().sum()
    }

    fn program<'a, P>(&'a mut self, name: &str) -> anyhow::Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the laboratory has no program {name}"))?.try_into()?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use aya::programs::{TestRun, TestRunOptions};

    use super::*;
    use crate::lab::frame::{Ends, smallest_datagram, sum};

    const DROP: u32 = 1;
    const PASS: u32 = 2;

    /// What the backend's card makes of a frame.
    fn check(object: &mut Object, frame: &[u8], action: u32, expected: &[u8]) {
        let mut output = vec![0; frame.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut output);
        let result = object.xdp("lab_decapsulate").unwrap().test_run(options).unwrap();
        assert_eq!(result.return_value, action);
        if action == PASS {
            assert_eq!(&output[..result.data_size_out as usize], expected);
        }
    }

    #[test]
    fn good_tunnels_end_at_the_backend_and_others_are_dropped() {
        let ends = Ends {
            source_link: [2; 6],
            target_link: [4; 6],
            source: (Ipv4Addr::new(10, 1, 0, 2), 1_000),
            target: (Ipv4Addr::new(203, 0, 113, 10), 80),
        };
        let (inner, mut object) = (smallest_datagram(&ends), Object::load().unwrap());
        check(&mut object, &inner, PASS, &inner);
        for (protocol, udp) in [(4, vec![]), (17, vec![0xC0, 1, 0x17, 0xC0, 0, 54, 0, 0])] {
            let mut outer = vec![
                0x45,
                0,
                0,
                66 + udp.len() as u8,
                0,
                0,
                0,
                0,
                64,
                protocol,
                0,
                0,
                10,
                2,
                0,
                1,
                10,
                2,
                1,
                0,
            ];
            let checksum = !sum(&outer);
            outer[10..12].copy_from_slice(&checksum.to_be_bytes());
            let frame = [&inner[..14], &outer, &udp, &inner[14..]].concat();
            check(&mut object, &frame, PASS, &inner);
            let mut wrong = frame.clone();
            wrong[25] ^= 1;
            check(&mut object, &wrong, DROP, &[]);
            check(&mut object, &frame[..frame.len() - 1], DROP, &[]);
        }
        assert_eq!((object.count("DECAPSULATED"), object.count("BAD_OUTER")), (2, 4));
    }
}
